"""Training: exact data order, exact resume, several processes, and what is said when it cannot start."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from first_step import assert_first_step
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import chisquare

from autolink import AutoLink, AutoLinkConfig, UserError, draw_edges, load
from autolink.backbone import EfficientNetLite0
from autolink.data import open_data
from autolink.data.pairs import FramePairs
from autolink.graph import connectedness
from autolink.losses import PerceptualLoss
from autolink.priors import disagreement
from autolink.train import Options, autolink_for, train
from autolink.training import HELD_ORDER, Ema, SeededBatches, load_checkpoint, seeded_generator, shuffled
from autolink.weights import read_tensors, write_safetensors


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        blobs = Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8))
        blobs.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


def options(images: Path, output: Path, **changes) -> Options:
    settings = {
        **dict(data=str(images), output=output, steps=6, batch_size=4, image_size=32, width=0.125, workers=0),
        **dict(keypoints=3, thickness=1e-2, detector="paper", perceptual="pyramid"),
        **dict(mixed_precision="no", learning_rate=1e-4),
        **dict(log_every=2, sample_every=3, save_every=3),
    }
    return Options(**{**settings, **changes})


def test_batches_are_a_function_of_seed_and_step():
    def take(start, count, rank=0, world=1, seed=1):
        return [batch for batch, _ in zip(SeededBatches(10, 4, seed, rank, world, start), range(count))]

    run = take(0, 7)
    assert take(3, 4) == run[3:]
    assert [a + b for a, b in zip(take(0, 7, 0, 2), take(0, 7, 1, 2))] == run  # two processes share the same batches
    flat = [index for batch in run for index in batch]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10)) and flat[:10] != flat[10:20]
    assert take(0, 7, seed=2) != run


def test_an_order_too_long_to_hold_is_computed():
    length = HELD_ORDER + 1  # three of four numbers of the network lead beyond it
    order = shuffled(length, seeded_generator(0, 0, 0, "order"))(np.arange(length))
    assert (np.bincount(order, minlength=length) == 1).all()

    def take(start, count, rank=0, world=1, seed=1):
        return [batch for batch, _ in zip(SeededBatches(10**12, 4, seed, rank, world, start), range(count))]

    run = take(0, 7)  # of terabytes, were it held
    assert take(3, 4) == run[3:] != take(3, 4, seed=2)
    assert [a + b for a, b in zip(take(0, 7, 0, 2), take(0, 7, 1, 2))] == run
    first, last = (next(iter(SeededBatches(length, 2, 0, start_step=step))) for step in (0, length // 2))
    assert first == order[:2].tolist() and last[0] == order[-1] and last[1] < length  # of the next epoch


def test_an_order_that_is_computed_is_random():
    length, count = 20_000_000, 100_000
    places = np.arange(count) * (length // count)
    some, next_ones, of_next_epoch, of_other_seed = (
        shuffled(length, seeded_generator(seed, epoch, 0, "order"))(places + shift)
        for seed, epoch, shift in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    )
    for others in (places, next_ones, of_next_epoch, of_other_seed):
        together = np.bincount(some * 16 // length * 16 + others * 16 // length, minlength=256)
        assert 0.001 < chisquare(together).pvalue < 0.999
    assert chisquare(np.bincount(some % 97)).pvalue > 0.001


def test_streams_of_randomness_are_apart():
    draws = {
        torch.rand(1, generator=seeded_generator(*key)).item()
        for key in [(0, 0, 0, "a"), (1, 0, 0, "a"), (0, 1, 0, "a"), (0, 0, 1, "a"), (0, 0, 0, "b")]
    }
    assert len(draws) == 5


def test_ema_forgets_its_start_and_averages_buffers():
    model = torch.nn.BatchNorm1d(1)
    ema = Ema(model, decay=0.9)
    for value in range(100):
        model.weight.data.fill_(value)
        model.running_mean.fill_(value)
        ema.update_parameters(model)
    assert ema.module.weight.item() == pytest.approx(90, abs=1.5)  # a steady ramp lags by 1/(1 − decay)
    assert ema.module.running_mean.item() == pytest.approx(ema.module.weight.item())


@pytest.mark.parametrize("header", [{}, {"run": "{"}, {"run": "[]"}, {"run": "{}"}, {"run": '{"step": "3"}'}])
def test_a_checkpoint_that_does_not_say_how_far_it_was_is_one_line(header, tmp_path):
    write_safetensors(tmp_path / "checkpoint.safetensors", {}, header)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors"):
        load_checkpoint(None, tmp_path, {}, {})


def test_ema_remembers_more_from_step_to_step():
    model = torch.nn.Linear(1, 1)
    ema, expected = Ema(model, decay=0.5), 0.0
    for step, keep in enumerate([0, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5]):
        model.weight.data.fill_(step**2)
        ema.update_parameters(model)
        expected = keep * expected + (1 - keep) * step**2
        assert ema.module.weight.item() == pytest.approx(expected)


def test_a_resumed_run_equals_an_unbroken_one(images, tmp_path):
    unbroken = train(options(images, tmp_path / "a"))
    assert len(load(unbroken).poses) > 0
    train(options(images, tmp_path / "b", steps=3))
    resumed = train(options(images, tmp_path / "b", resume=True))
    first, second = load_file(unbroken), load_file(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)
    state = [read_tensors(tmp_path / run / "checkpoint.safetensors") for run in "ab"]
    assert state[0].keys() == state[1].keys() and any(key.startswith("optimizer/") for key in state[0])
    assert all(torch.equal(state[0][key], state[1][key]) for key in state[0])
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in "ab"]
    assert json.loads(logs[0][-1]) == json.loads(logs[1][-1])


@pytest.fixture
def clips(images: Path) -> Path:
    """The images as frames of two clips, two of each held out."""
    for number, path in enumerate(sorted(images.iterdir())):
        folder = images / ("val" if number < 4 else "train") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    return images


def test_visible_patches_can_be_another_frame_of_the_clip(clips, tmp_path, monkeypatch):
    seen = []
    forward = AutoLink.forward

    def watch(model, images, mask, looks):
        seen.append((images, looks))
        return forward(model, images, mask, looks)

    monkeypatch.setattr(AutoLink, "forward", watch)
    how = dict(visible="clip", agreement_weight=0.1)
    unbroken = train(options(clips, tmp_path / "a", **how))
    train(options(clips, tmp_path / "b", steps=3, **how))
    resumed = train(options(clips, tmp_path / "b", resume=True, **how))
    first, second = load_file(unbroken), load_file(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)

    clip_of = {sample.image.numpy().tobytes(): sample.clip for sample in open_data(str(clips), 32)}
    clip_of |= {sample.image.numpy().tobytes(): sample.clip for sample in open_data(str(clips), 32, "val")}
    for images, looks in seen:
        pairs = [
            [((image + 1) * 127.5).round().byte().numpy().tobytes() for image in pair] for pair in zip(images, looks)
        ]
        assert all(image != look and clip_of[image] == clip_of[look] for image, look in pairs)


PAPER = {"loss_norm": "l1", "visible": "image", "optimizer": "adam"}
OTHER = {"loss_norm": "l2", "visible": "clip", "optimizer": "adamw", "agreement_weight": 0.7}
OTHER |= {"graph_learning_rate": 3e-5, "mask_ratio": 0.75, "mask_cells": 8, "exact_mask": True}
OTHER |= {"official": True}


@pytest.mark.parametrize(("how", "betas", "decay"), [(PAPER, (0.9, 0.99), 0), (OTHER, (0.9, 0.999), 1e-3)])
def test_the_first_step_follows_the_gradient_of_the_formula(clips, tmp_path, how, betas, decay):
    asked = options(clips, tmp_path, steps=1, flip=True, learning_rate=1e-3, **how)
    train(asked)

    frames = open_data(str(clips), 32)
    data = FramePairs(frames, asked.seed) if asked.visible == "clip" else frames
    batch = [data[index] for index in next(iter(SeededBatches(len(data), 4, asked.seed)))]
    images = torch.stack([one.driving if asked.visible == "clip" else one.image for one in batch]) / 127.5 - 1
    looks = torch.stack([one.source for one in batch]) / 127.5 - 1 if asked.visible == "clip" else images
    mirrored = torch.rand(4, generator=seeded_generator(asked.seed, 0, 0, "flip")) < 0.5
    assert mirrored.any() and not mirrored.all()
    for shown in {id(images): images, id(looks): looks}.values():
        shown[mirrored] = shown[mirrored].flip(-1)
    draws = torch.rand(4, 1, *[asked.mask_cells] * 2, generator=seeded_generator(asked.seed, 0, 0, "mask"))
    side = 32 // asked.mask_cells
    hidden = round(asked.mask_ratio * asked.mask_cells**2)
    nth = draws.flatten(1).sort(1).values[:, hidden].view(4, 1, 1, 1)
    shown = draws >= (nth if asked.exact_mask else asked.mask_ratio)
    seen = shown.repeat_interleave(side, 2).repeat_interleave(side, 3)

    set_seed(asked.seed)
    model = AutoLink(asked.model_config).train()
    keypoints = model.locate(images).xy
    edge_map = draw_edges(keypoints, model.edge_weights, 32, asked.thickness, "reference")
    loss = PerceptualLoss("pyramid", asked.loss_norm)(model.decoder(looks * seen, edge_map), images)
    if asked.agreement_weight:
        loss = loss + asked.agreement_weight * disagreement(keypoints, [one.clip for one in batch])

    def rate(name):
        return how.get("graph_learning_rate", 1e-3) if name.startswith("graph.") else 1e-3

    assert_first_step(tmp_path, "model", "adam", model, loss, betas, rate, decay=decay)


@pytest.mark.parametrize("decay", [0.0, 0.999])
def test_what_is_kept_is_the_average_or_the_last_weights(images, tmp_path, decay):
    model = load(train(options(images, tmp_path / "run", steps=2, learning_rate=1e-2, ema_decay=decay)))
    saved = read_tensors(tmp_path / "run" / "checkpoint.safetensors")
    last = saved["module/model/detector.heatmaps.weight"]
    assert torch.equal(model.detector.heatmaps.weight, last) == (decay == 0)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"perceptual": "vgg16"}, ("vgg16", "l1", 224)),
        ({"perceptual": "vgg16", "loss_size": 64, "loss_norm": "l2"}, ("vgg16", "l2", 64)),
        ({"perceptual": "squeezenet"}, ("squeezenet", "l1", None)),
    ],
)
def test_vgg16_sees_224_pixels_unless_told(images, tmp_path, monkeypatch, asked, expected):
    class Asked(Exception):
        """For features."""

    def features(*given):
        raise Asked(*given)

    monkeypatch.setattr("autolink.train.PerceptualLoss", features)
    with pytest.raises(Asked) as found:
        train(options(images, tmp_path / "run", **asked))
    assert found.value.args == expected


@pytest.mark.parametrize("visible", ["image", "clip"])
def test_half_of_the_training_images_can_be_of_another_data_set(clips, tmp_path, monkeypatch, visible):
    seen = []
    forward = AutoLink.forward

    def watch(model, images, mask, looks):
        seen.extend(((image + 1) * 127.5).round().byte().numpy().tobytes() for image in images if model.training)
        return forward(model, images, mask, looks)

    monkeypatch.setattr(AutoLink, "forward", watch)
    how = dict(visible=visible, mix_with="synthetic", steps=40)
    model = load(train(options(clips, tmp_path / "run", **how)))
    assert model.metadata["data"].endswith(" and synthetic")
    own = {sample.image.numpy().tobytes() for sample in open_data(str(clips), 32)}
    found = sum(image in own for image in seen)
    assert len(seen) == 160 and 55 < found < 105  # 80 ± 4 standard deviations


def test_agreement_draws_the_clips_poses_together(clips, tmp_path):
    def distance(weight: float) -> float:
        how = dict(visible="clip", agreement_weight=weight, steps=40, learning_rate=3e-3, sample_every=40)
        model = load(train(options(clips, tmp_path / f"{weight}", **how)))
        data = open_data(str(clips), 32)
        found = model.detect(torch.stack([sample.image for sample in data]).float() / 255).xy
        return disagreement(found, data.clips).item()

    assert distance(1.0) < 0.5 * distance(0.0)


def test_a_run_leaves_all_that_was_promised(images, tmp_path):
    path = train(options(images, tmp_path / "run"))
    model = load(path)
    assert model.config.keypoints == 3
    assert model.metadata["steps"] == 6 and model.metadata["options"]["perceptual"] == "pyramid"
    seen = model.detect(torch.stack([sample.image for sample in open_data(str(images), 32)]).float() / 255)
    assert model.metadata["usual_confidence"] == pytest.approx(seen.confidence.mean().item(), rel=0.05)
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == [
        "reconstructions-0000003.png",
        "reconstructions-0000006.png",
    ]
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 3, 4, 6, 6]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_lowers_the_loss(images, tmp_path, precision):
    train(options(images, tmp_path / "run", steps=60, learning_rate=3e-3, mixed_precision=precision, log_every=10))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]


def test_a_log_file_gets_lines_and_no_bar(images, tmp_path, capsys):
    train(options(images, tmp_path / "run", steps=4))
    printed = capsys.readouterr().err
    steps = [line.split(":")[0] for line in printed.splitlines() if line.startswith("step ")]
    assert steps == ["step 2", "step 3", "step 4", "step 4"] and "\r" not in printed and "%|" not in printed


def test_mistakes_are_named(images, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        train(options(images, tmp_path / "none", resume=True))
    train(options(images, tmp_path / "run", steps=3))
    with pytest.raises(UserError, match="already holds a run"):
        train(options(images, tmp_path / "run"))
    with pytest.raises(UserError, match="other options"):
        train(options(images, tmp_path / "run", keypoints=5, resume=True))
    with pytest.raises(UserError, match="multiple of 16"):
        train(options(images, tmp_path / "odd", image_size=50))
    for given, named in (
        (dict(image_size=48, coarse_share=0.5), r"^--image-size 48 --coarse-share 0\.5: half .* give a multiple of 32"),
        (dict(mask_cells=20, coarse_share=1), r"^--mask-cells 20: do not fit on 16 pixels, half of the side"),
        (dict(mask_cells=33), r"^--mask-cells 33: do not fit on a side of 32 pixels; give 1 to 32"),
    ):
        with pytest.raises(UserError, match=named):
            train(options(images, tmp_path / "unfitting", **given))
    assert not (tmp_path / "unfitting").exists()
    (tmp_path / "copied").mkdir()
    model = shutil.copy(tmp_path / "run" / "model.safetensors", tmp_path / "copied")
    for given in (options(images, Path(images)), options(images, tmp_path / "copied", start_from=model)):
        with pytest.raises(UserError, match="is an input and would be overwritten"):
            train(given)


def test_a_run_can_begin_with_another_model(images, tmp_path):
    begun = train(options(images, tmp_path / "begun", keypoints=5, thickness=2e-3, steps=3))
    how = dict(start_from=str(begun), keypoints=None, thickness=None, learning_rate=0.0, steps=1)
    model = load(train(options(images, tmp_path / "next", image_size=48, **how)))
    assert (model.config.keypoints, model.config.thickness, model.config.image_size) == (5, 2e-3, 48)
    for name, parameter in load(begun).named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, msg=name)
    heavy = load(train(options(images, tmp_path / "heavy", edge_weight=0.5, **how)))
    assert heavy.edge_weights.mean().item() == pytest.approx(0.5, rel=0.2)
    with pytest.raises(UserError, match=r"it has 5 keypoints, width .* detector paper, .*; train with"):
        train(options(images, tmp_path / "other", **{**how, "keypoints": 4}))


def test_an_application_trains_the_learner_it_lacks_once(images, tmp_path):
    application = options(images, tmp_path / "app")
    learner = dict(keypoints=3, perceptual="pyramid", steps=3, batch_size=4, save_every=3)
    first = autolink_for(None, application, **learner)
    assert load(first).config.image_size == 32
    written = first.stat().st_mtime_ns
    assert autolink_for(None, application, **learner) == first
    assert first.stat().st_mtime_ns == written
    assert autolink_for("given", application) == Path("given")


def test_a_benchmark_does_not_take_the_shipped_model_that_has_its_name(images, tmp_path, monkeypatch):
    """The benchmark `hands` and the shipped `hands` show other pictures."""
    monkeypatch.setattr("autolink.train.train", lambda plan: Path("trained"))
    application = options(images, tmp_path / "app")
    assert autolink_for(None, replace(application, data="hands")) == Path("trained")
    assert autolink_for(None, replace(application, data="cats")) == Path("cats")


def test_two_processes_learn_the_same_weights(images, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import json, sys, torch\n"
        "from pathlib import Path\n"
        "from accelerate import PartialState\n"
        "from accelerate.utils import gather_object\n"
        "from autolink import train as module\n"
        "from autolink.train import Options, train\n"
        "kept = {}\n"
        "save = module.save_checkpoint\n"
        "def spy(accelerator, output, step, modules, optimizers):\n"
        "    kept.update(accelerator.unwrap_model(modules['model']).named_parameters())\n"
        "    save(accelerator, output, step, modules, optimizers)\n"
        "module.save_checkpoint = spy\n"
        "settings = json.loads(sys.argv[1])\n"
        "train(Options(**{**settings, 'output': Path(settings['output'])}))\n"
        "state = PartialState()\n"
        "sums = gather_object([[float(p.double().sum()) for p in kept.values()]])\n"
        "if state.is_main_process:\n"
        "    print(json.dumps({'num_processes': state.num_processes, 'sums': sums}))\n"
    )
    settings = json.dumps(vars(options(images, tmp_path / "run")), default=str)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
        settings,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["num_processes"] == 2
    assert report["sums"][0] == report["sums"][1]


def test_images_are_reconstructed_at_half_their_side_in_the_coarse_share(images, tmp_path, monkeypatch):
    seen, sides = [], set()
    forward = AutoLink.forward

    def watch(self, images, mask, looks=None):
        made = forward(self, images, mask, looks)
        if self.training:
            seen.append((images.shape[-1], made.images.shape[-1], made.edge_map.shape[-1]))
        else:
            sides.add(made.images.shape[-1])
        return made

    monkeypatch.setattr(AutoLink, "forward", watch)
    train(options(images, tmp_path / "run", coarse_share=0.5, steps=4, sample_every=2))
    assert seen == [(32, 16, 16)] * 2 + [(32, 32, 32)] * 2
    assert sides == {16, 32}  # what is shown and measured is what is being learned


def test_a_pretrained_detector_begins_with_what_it_knows(images, tmp_path):
    made = train(options(images, tmp_path / "run", detector="efficientnet-lite0", steps=1, learning_rate=1e-7))
    trunk = EfficientNetLite0()
    trunk.load_imagenet()
    assert torch.allclose(load(made).detector.trunk.stem[0].weight, trunk.stem[0].weight, atol=1e-5)
    again = train(options(images, tmp_path / "next", start_from=str(made), steps=1, detector=None))
    assert load(again).config.detector == "efficientnet-lite0"


def test_a_graph_that_fell_into_pieces_is_linked_again(images, tmp_path):
    begun = AutoLink(AutoLinkConfig(keypoints=6, thickness=1e-2, image_size=32, width=0.125))
    begun.graph.scaled_logits.data.fill_(-4 / 512)
    begun.graph.scaled_logits.data[[0, 9, 14]] = 1 / 512  # of 01, 23 and 45
    assert connectedness(begun.graph.matrix()) == 1 / 3
    start = str(begun.save_pretrained(tmp_path / "pieces"))
    settings = dict(keypoints=6, start_from=start, steps=25, learning_rate=4e-4)
    made = load(train(options(images, tmp_path / "run", tree_weight=1.0, **settings)))
    assert connectedness(made.graph.matrix()) == 1
