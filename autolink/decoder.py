"""Inpainting decoder: a UNet that completes a masked image along the edge map (Figure 8b, Eq. 5).

Shapes: B batch, S image side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autolink.layers import LEAKY_SLOPE, conv, conv_bn_relu, down, scaled, up


class InpaintingDecoder(nn.Module):
    """`I' = Decoder(α I_m ⊕ S)`: reconstructs an image from its visible patches and its edge map.

    Args:
        width: Channel multiplier on the paper's sizes.
        learn_alpha: Whether α is learned, from 1 (the paper), or stays 1 (an ablation of Table 4).
        edge_channels: Channels of the edge map; 1 but for the edge-specific ablation of Table 4.
        late_shortcuts: Whether shortcuts are concatenated behind a block's convolutions, as in the official code,
            instead of in front of them.
    """

    def __init__(
        self, width: float = 1.0, learn_alpha: bool = True, edge_channels: int = 1, late_shortcuts: bool = False
    ) -> None:
        super().__init__()
        c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))
        self.alpha = nn.Parameter(torch.ones(()), requires_grad=learn_alpha)
        self.stem = nn.Sequential(conv(3 + edge_channels, c64), nn.LeakyReLU(LEAKY_SLOPE, inplace=True))
        # Conv-BN-LReLU-Conv-BN-Down-LReLU; `down` and the activation follow in forward.
        self.encoder = nn.ModuleList(
            nn.Sequential(*conv_bn_relu(i, o), conv(o, o, bias=False), nn.BatchNorm2d(o))
            for i, o in [(c64, c128), (c128, c256), (c256, c512), (c512, c512)]
        )
        # Up, (Conv-BN-LReLU)×2, and before or after these a shortcut with as many channels as they make.
        self.late_shortcuts = late_shortcuts
        if late_shortcuts:
            sizes = [(c512, c512), (2 * c512, c256), (2 * c256, c128), (2 * c128, c64)]
        else:
            sizes = [(c512 + c512, c512), (c512 + c256, c256), (c256 + c128, c128), (c128 + c64, c64)]
        self.decoder = nn.ModuleList(nn.Sequential(*conv_bn_relu(i, o), *conv_bn_relu(o, o)) for i, o in sizes)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
        self.to_image = conv(2 * c64 if late_shortcuts else c64, 3)

    def forward(self, masked_images: Tensor, edge_map: Tensor) -> Tensor:
        """Reconstruct images.

        Args:
            masked_images: (B, 3, S, S) in [−1, 1], 0 where hidden; S a multiple of 16.
            edge_map: (B, edge_channels, S, S).

        Returns:
            (B, 3, S, S), unbounded; the loss pulls it to [−1, 1].
        """
        x = self.stem(torch.cat([self.alpha * masked_images, edge_map], dim=1))
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = self.activation(down(block(x)))
        for block, skip in zip(self.decoder, reversed(skips)):
            if self.late_shortcuts:
                x = torch.cat([block(up(x)), skip], dim=1)
            else:
                x = block(torch.cat([up(x), skip], dim=1))
        return self.to_image(x)
