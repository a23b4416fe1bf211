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
    """

    def __init__(self, width: float = 1.0, learn_alpha: bool = True, edge_channels: int = 1) -> None:
        super().__init__()
        c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))
        self.alpha = nn.Parameter(torch.ones(()), requires_grad=learn_alpha)
        self.stem = nn.Sequential(conv(3 + edge_channels, c64), nn.LeakyReLU(LEAKY_SLOPE))
        # Conv-BN-LReLU-Conv-BN-Down-LReLU; `down` and the activation follow in forward.
        self.encoder = nn.ModuleList(
            nn.Sequential(*conv_bn_relu(i, o), conv(o, o, bias=False), nn.BatchNorm2d(o))
            for i, o in [(c64, c128), (c128, c256), (c256, c512), (c512, c512)]
        )
        # Up, concatenate the shortcut, then (Conv-BN-LReLU)×2.
        self.decoder = nn.ModuleList(
            nn.Sequential(*conv_bn_relu(i + skip, o), *conv_bn_relu(o, o))
            for i, skip, o in [(c512, c512, c512), (c512, c256, c256), (c256, c128, c128), (c128, c64, c64)]
        )
        self.activation = nn.LeakyReLU(LEAKY_SLOPE)
        self.to_image = conv(c64, 3)

    def forward(self, masked_images: Tensor, edge_map: Tensor) -> Tensor:
        """Reconstruct images.

        Args:
            masked_images: (B, 3, S, S) in [−1, 1], 0 where hidden; S a multiple of 16.
            edge_map: (B, 1, S, S).

        Returns:
            (B, 3, S, S), unbounded; the loss pulls it to [−1, 1].
        """
        x = self.stem(torch.cat([self.alpha * masked_images, edge_map], dim=1))
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = self.activation(down(block(x)))
        for block, skip in zip(self.decoder, reversed(skips)):
            x = block(torch.cat([up(x), skip], dim=1))
        return self.to_image(x)
