"""The exported file in onnxruntime, against the model on images of many sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from autolink.commands import export
from autolink.model import AutoLink

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", params=["paper", "efficientnet-lite0"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[AutoLink, Path]:
    from autolink import AutoLinkConfig

    torch.manual_seed(1)
    model = AutoLink(AutoLinkConfig(keypoints=4, image_size=64, width=0.125, detector=request.param)).eval()
    with torch.no_grad():
        model.detector.heatmaps.weight.mul_(300)  # peaked heatmaps: an untrained detector looks at nothing
    return model, export.export_onnx(model, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.parametrize("shape", [(5, 64, 64), (1, 64, 64), (2, 128, 128), (3, 151, 90), (1, 90, 151), (2, 33, 20)])
def test_it_equals_detect(exported: tuple[AutoLink, Path], shape: tuple[int, int, int]) -> None:
    model, path = exported
    batch, height, width = shape
    images = functional.interpolate(torch.rand(batch, 3, 9, 9), size=(height, width), mode="bicubic").clamp(0, 1)
    keypoints, confidence = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    expected = model.detect(images)
    assert expected.xy.std() > 0.02  # the points are not all in the middle, where no mistake could be seen
    assert np.allclose(keypoints, expected.xy.numpy(), atol=1e-4)
    assert np.allclose(confidence, expected.confidence.numpy(), atol=1e-4)


@pytest.mark.parametrize(("length", "side", "size"), [(100, 100, 32), (101, 64, 32), (40, 21, 32), (32, 32, 32)])
def test_resizing_is_a_crop_and_an_antialiased_interpolation(length: int, side: int, size: int) -> None:
    lines = torch.rand(3, length)
    offset = (length - side) // 2
    cut = lines[:, offset : offset + side]
    square = cut[:, :, None].expand(-1, -1, side)[None]
    expected = functional.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0, :, :, 0]
    torch.testing.assert_close(lines @ export.resizing(length, side, size).T, expected, atol=1e-5, rtol=0)


def test_the_file_says_what_goes_in_and_comes_out(exported: tuple[AutoLink, Path]) -> None:
    session = onnxruntime.InferenceSession(exported[1])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["keypoints", "confidence"]
