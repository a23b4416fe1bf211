"""The learner's parts and the whole: sizes of Figure 8, gradients everywhere, self-describing files."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import autolink
from autolink import AutoLink, AutoLinkConfig, UserError
from autolink.decoder import InpaintingDecoder
from autolink.detector import KeypointDetector, locate
from autolink.geometry import to_pixels
from autolink.layers import down
from autolink.masking import patch_mask
from autolink.model import centre_to_image, image_to_centre
from autolink.weights import read_header, write_model


def test_sizes_of_figure_8a():
    detector = KeypointDetector(10)
    shapes = []
    for block in [*detector.encoder, detector.heatmaps]:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    detector(torch.zeros(2, 3, 128, 128))
    assert shapes == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (10, 32, 32)]


def test_sizes_of_figure_8b():
    decoder = InpaintingDecoder()
    shapes = []
    for block in [decoder.stem, *decoder.encoder, *decoder.decoder, decoder.to_image]:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    decoder(torch.zeros(2, 3, 128, 128), torch.zeros(2, 1, 128, 128))
    down_path = [(64, 128, 128), (128, 128, 128), (256, 64, 64), (512, 32, 32), (512, 16, 16)]
    up_path = [(512, 16, 16), (256, 32, 32), (128, 64, 64), (64, 128, 128), (3, 128, 128)]
    assert shapes == down_path + up_path


def test_down_is_bilinear_halving():
    x = torch.rand(1, 2, 8, 12)
    halved = torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    assert torch.allclose(down(x), halved)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_every_parameter_learns_at_every_size(size):
    model = AutoLink(AutoLinkConfig(keypoints=5, thickness=1e-2, image_size=size, width=0.125))
    images = torch.rand(2, 3, size, size) * 2 - 1
    made = model(images, patch_mask(2, size))
    assert made.images.shape == images.shape and made.edge_map.shape == (2, 1, size, size)
    (made.images - images).abs().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_mask_hides_whole_cells_at_the_asked_ratio():
    mask = patch_mask(200, 128, cells=16, ratio=0.8)
    cells = mask.view(200, 16, 8, 16, 8)
    assert (cells.amax((2, 4)) == cells.amin((2, 4))).all()
    assert mask.mean().item() == pytest.approx(0.2, abs=0.01)
    assert set(mask.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("ratio, hidden", [(0, 0), (0.8, 205), (1, 256)])
def test_an_exact_mask_hides_as_many_cells_of_each_image(ratio, hidden):
    mask = patch_mask(50, 32, ratio=ratio, exact=True)[:, 0, ::2, ::2]
    assert ((mask == 0).sum((1, 2)) == hidden).all()
    assert hidden == 256 or (mask.amax(0) == 1).all()  # any cell may be seen


def test_mask_depends_on_its_generator_alone():
    def draw():
        return patch_mask(2, 64, generator=torch.Generator().manual_seed(3))

    assert torch.equal(draw(), draw())
    assert not torch.equal(draw(), patch_mask(2, 64, generator=torch.Generator().manual_seed(4)))


def test_confidence_tells_one_peak_from_two():
    heatmaps = torch.full((1, 3, 32, 32), -20.0)
    heatmaps[0, 0, 10, 10] = 20  # certain
    heatmaps[0, 1, 2, 16] = heatmaps[0, 1, 29, 16] = 20  # hesitates: the mean lies between, where nothing is
    heatmaps[0, 2] = 0  # knows nothing
    certain, torn, lost = locate(heatmaps).confidence[0].tolist()
    assert certain > 0.99 and torn < 0.01 and 0 < lost < 0.1


def test_detect_takes_tensors_and_pictures_of_any_size(tiny):
    found = tiny.detect(torch.rand(3, 3, 64, 64))
    assert found.xy.shape == (3, 4, 2) and found.confidence.shape == (3, 4)
    pictures = [Image.new("L", (90, 50), 128), Image.new("RGB", (64, 64))]
    assert tiny.detect(pictures).xy.shape == (2, 4, 2)
    with pytest.raises(ValueError, match="floats"):
        tiny.detect(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_detect_over_many_is_detect_of_each(tiny):
    """In batches, of arrays and pictures of several sizes, and as a stream that is read no further than it must."""
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 255, (height, width, 3), np.uint8) for height, width in [(64, 90), (64, 90), (50, 40)] * 3
    ]
    each = [tiny.detect([Image.fromarray(picture)]) for picture in pictures]
    images = torch.from_numpy(np.stack(pictures[:2])).permute(0, 3, 1, 2) / 255
    for many in (tiny.detect(pictures), tiny.detect(pictures, batch_size=4)):
        assert torch.allclose(many.xy, torch.cat([one.xy for one in each]), atol=1e-5)
        assert torch.allclose(many.confidence, torch.cat([one.confidence for one in each]), atol=1e-5)
    assert torch.allclose(tiny.detect(images, batch_size=1).xy, torch.cat([one.xy for one in each[:2]]), atol=1e-5)
    assert tiny.detect([]).xy.shape == tiny.detect(torch.zeros(0, 3, 8, 8)).xy.shape == (0, 4, 2)

    read = []

    def named() -> Iterator[tuple[str, np.ndarray]]:
        for number, picture in enumerate(pictures * 100):
            read.append(number)
            yield f"frame {number}", picture

    tiny.train()
    with closing(tiny.detect_stream(named(), batch_size=2, picture=lambda frame: frame[1])) as stream:
        for number, ((name, picture), found) in enumerate(islice(stream, 5)):
            assert name == f"frame {number}" and picture is pictures[number]
            assert torch.allclose(found.xy, each[number].xy[0], atol=1e-5)
    assert len(read) <= 10 and tiny.training
    tiny.eval()
    with pytest.raises(ValueError, match="uint8, not float64"):
        tiny.detect([np.zeros((8, 8, 3))])


def test_points_go_from_the_centre_to_the_image_and_back():
    points = torch.rand(3, 4, 2) * 2 - 1
    assert torch.allclose(image_to_centre(centre_to_image(points, 50, 91), 50, 91), points, atol=1e-6)


def test_detect_sees_the_centre_square_and_answers_in_the_whole_image(tiny):
    wide = torch.rand(1, 3, 64, 100)
    centre = tiny.detect(wide[..., 18:82]).xy
    expected = to_pixels(centre, 64, 64) + torch.tensor([18.0, 0.0])
    assert torch.allclose(to_pixels(tiny.detect(wide).xy, 64, 100), expected, atol=1e-3)


def test_edge_map_is_differentiable_and_bounded_by_the_weights(tiny):
    keypoints = tiny.detect(torch.rand(2, 3, 64, 64)).xy.requires_grad_()
    edge_map = tiny.edge_map(keypoints, size=(32, 48))
    assert edge_map.shape == (2, 1, 32, 48) and edge_map.min() >= 0 and edge_map.max() <= tiny.edge_weights.max()
    assert torch.autograd.grad(edge_map.sum(), keypoints)[0].abs().sum() > 0


def test_file_round_trip(tiny, tmp_path):
    path = tiny.save_pretrained(tmp_path / "m.safetensors", {"steps": 3})
    again = autolink.load(path)
    images = torch.rand(2, 3, 64, 64)
    assert again.config == tiny.config and again.metadata == {"steps": 3} and not again.training
    assert torch.equal(again.detect(images).xy, tiny.detect(images).xy)
    header = {"task": "autolink", "config": vars(tiny.config), "metadata": {"steps": 3}}
    assert read_header(path) == header


def test_half_precision_file_is_half_the_size_and_nearly_the_same(tiny, tmp_path):
    full = tiny.save_pretrained(tmp_path / "full.safetensors")
    half = tiny.save_pretrained(tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(autolink.load(half).detect(images).xy, tiny.detect(images).xy, atol=1e-2)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_the_models(kind, tiny, tmp_path):
    tensors = {name: t.to(kind) if t.is_floating_point() else t for name, t in tiny.state_dict().items()}
    write_model(tmp_path / "m.safetensors", tensors, "autolink", asdict(tiny.config), {}, half=False)
    again = autolink.load(tmp_path / "m.safetensors")
    for name, value in again.state_dict().items():
        assert value.dtype == tiny.state_dict()[name].dtype and torch.equal(value, tensors[name].to(value.dtype))
        assert not value.is_meta


def test_a_folder_with_one_model_is_a_source(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "run")
    assert autolink.load(tmp_path / "run").config == tiny.config


def _garbage(path, file):
    path.write_bytes(b"not a model")


def _truncated(path, file):
    path.write_bytes(file.read_bytes()[:-1000])


def _foreign(path, file):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)


def _other_task(path, file):
    from safetensors.torch import save_file

    header = {"format": "autolink/1", "task": "gan", "config": json.dumps({}), "metadata": "{}"}
    save_file({"x": torch.zeros(1)}, path, metadata=header)


def _not_a_number(value):
    def damage(path, file):
        from safetensors.torch import load_file, save_file

        with safe_open(file, framework="pt") as opened:
            header = opened.metadata()
        tensors = load_file(file)
        tensors["detector.heatmaps.weight"][0, 3, 0, 0] = value
        save_file({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, path, header)

    return damage


def _header(**changed):
    """The header with some parts replaced; None leaves a part out, and what is in `config` is changed in it alone."""

    def damage(path, file):
        from safetensors.torch import load_file, save_file

        with safe_open(file, framework="pt") as opened:
            header = opened.metadata()
        for part, value in changed.items():
            if isinstance(value, dict):
                value = json.dumps(json.loads(header[part]) | value)
            header[part] = value
        save_file(load_file(file), path, {part: value for part, value in header.items() if value is not None})

    return damage


@pytest.mark.parametrize(
    "damage, message",
    [
        (_not_a_number(float("nan")), r"detector\.heatmaps\.weight is not a finite number everywhere"),
        (_not_a_number(float("inf")), r"detector\.heatmaps\.weight is not a finite number everywhere"),
        (_header(task=None), "does not say in its header which task"),
        (_header(config=None), "has no config in its header"),
        (_header(metadata=None), "has no metadata in its header"),
        (_header(config="{"), "has no config in its header"),
        (_header(config="[" * 100_000), "has no config in its header"),
        (_header(config="[1]"), "has no config in its header"),
        (_header(metadata='"text"'), "has no metadata in its header"),
        (_header(config={"keypoints": "4"}), "keypoints '4': give a whole number from 2 to 1,024"),
        (_header(config={"keypoints": [4]}), r"keypoints \[4\]: give a whole number"),
        (_header(config={"keypoints": None}), "keypoints None: give a whole number"),
        (_header(config={"keypoints": -4}), "keypoints -4: give a whole number"),
        (_header(config={"keypoints": 4.5}), r"keypoints 4\.5: give a whole number"),
        (_header(config={"keypoints": 5}), r"does not fit this version of autolink: .*size mismatch"),
        (_header(config={"thickness": float("nan")}), "thickness nan: give a number"),
        (_header(config={"width": 1e9}), "width 1000000000: give a number above 0, 16 at most"),
        (_header(config={"width": 16, "keypoints": 1024}), r"does not fit this version of autolink: .*size mismatch"),
        (_header(config={"image_size": 63}), "image_size 63: give a multiple of 16"),
        (_header(config={"drawing": "circles"}), "drawing 'circles': give one of edges, "),
        (_header(config={"learn_alpha": "no"}), "learn_alpha 'no': give true or false"),
        (_header(config={"colour": 1}), r"does not fit this version of autolink: .*colour"),
        (_garbage, "not a readable"),
        (_truncated, "not a readable"),
        (_foreign, "not written by autolink"),
        (_other_task, "'gan'"),
    ],
)
def test_unusable_files_are_named_in_one_line(damage, message, tiny_file, tmp_path):
    bad = tmp_path / "bad.safetensors"
    damage(bad, tiny_file)
    with pytest.raises(UserError, match=message) as caught:
        autolink.load(bad)
    assert "bad.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_names_list_what_there_is(tmp_path):
    with pytest.raises(UserError, match="neither a file, nor a folder, nor a shipped name"):
        autolink.load("no-such-model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds 0 \.safetensors files"):
        autolink.load(tmp_path / "empty")


def test_shipped_files_are_checked(monkeypatch, tmp_path, tiny):
    from autolink import weights

    file = tiny.save_pretrained(tmp_path / "tiny.safetensors")
    entry = {"file": file.name, "sha256": "0" * 64, "task": "autolink"}
    (tmp_path / "manifest.json").write_text(json.dumps({"tiny": entry}))
    monkeypatch.setattr(weights, "pretrained_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="sha256 differs"):
        autolink.load("tiny")


def test_hub_ids_go_through_the_hub(monkeypatch, tiny_file):
    import huggingface_hub

    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(tiny_file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert autolink.load("someone/keypoints").config.keypoints == 4
    assert asked == [("someone/keypoints", "model.safetensors")]
