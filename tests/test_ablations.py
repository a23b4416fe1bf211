"""Variants of the method (Tables 4–6): each draws what it says, learns, and is stored in its file."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from autolink import AutoLink, AutoLinkConfig, UserError, draw_edges, load
from autolink.edges import EdgeGraph, draw_keypoints
from autolink.masking import patch_mask
from autolink.train import Options, _optimizer
from autolink.weights import write_model

TINY = AutoLinkConfig(keypoints=4, thickness=1e-2, image_size=32, width=0.125)
VARIANTS = [
    {"learn_alpha": False},
    {"learned_thickness": "shared"},
    {"learned_thickness": "independent"},
    {"drawing": "edge-channels"},
    {"drawing": "keypoints"},
    {"drawing": "keypoints", "learned_thickness": "independent"},
    {"drawing": "edge-channels", "learned_thickness": "independent"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_learns_with_all_its_parameters_and_keeps_them_in_its_file(changes, tmp_path):
    model = AutoLink(replace(TINY, **changes))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    (model(images, patch_mask(2, 32)).images - images).abs().mean().backward()
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learned == {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert ("decoder.alpha" in learned) == model.config.learn_alpha
    assert ("graph.log_thickness" in learned) == ("learned_thickness" in changes)
    again = load(model.eval().save_pretrained(tmp_path / "m.safetensors"))
    keypoints = torch.rand(1, 4, 2) - 0.5
    assert again.config == model.config
    assert torch.equal(again.edge_map(keypoints, 32), model.edge_map(keypoints, 32))


def test_files_from_before_the_variants_are_the_method(tmp_path):
    model = AutoLink(TINY).eval()
    config = {k: v for k, v in asdict(TINY).items() if k not in ("drawing", "learned_thickness")}
    path = tmp_path / "old.safetensors"
    write_model(path, model.state_dict(), AutoLink.task, config, {}, half=False)
    assert load(path).config == TINY


def test_gaussians_at_keypoints_by_hand():
    keypoints = torch.tensor([[[0.25, -0.25], [-0.75, 0.75]]], dtype=torch.float64)
    drawn = draw_keypoints(keypoints, torch.tensor([0.5, 2.0], dtype=torch.float64), (4, 4), 0.3)[0, 0]
    assert drawn[1, 2].item() == pytest.approx(0.5)  # pixel centres lie at ±0.25 and ±0.75
    assert drawn[3, 0].item() == pytest.approx(2.0)
    # the middle pixel sees both: 0.5·exp(−(0.5² + 0.5²)/0.3) from the first, 2·exp(−(0.5² + 0.5²)/0.3) from the second
    assert drawn[2, 1].item() == pytest.approx(2 * math.exp(-0.5 / 0.3))


def test_a_channel_an_edge_holds_what_the_maximum_is_taken_of():
    graph = EdgeGraph(4, 1e-2, drawing="edge-channels")
    keypoints = torch.rand(2, 4, 2) - 0.5
    channels = graph.channels(keypoints, (16, 16))
    assert channels.shape == (2, 6, 16, 16)
    assert torch.allclose(channels.amax(1, keepdim=True), graph(keypoints, 16), atol=1e-6)
    only_last = draw_edges(keypoints[:, 2:], graph.weights[-1:], 16, 1e-2)
    assert torch.allclose(channels[:, 5:], only_last, atol=1e-6)


@pytest.mark.parametrize("learned, shape", [("shared", ()), ("independent", (6,))])
def test_thickness_starts_where_it_is_told_and_moves_along_its_gradient(learned, shape):
    graph = EdgeGraph(4, 2e-2, learned_thickness=learned)
    assert graph.thickness.shape == shape and graph.thickness.detach().numpy() == pytest.approx(2e-2)
    keypoints = torch.rand(1, 4, 2) - 0.5
    before = graph(keypoints, 32).sum()
    before.backward()
    with torch.no_grad():
        graph.log_thickness += 1e-3
    predicted = 1e-3 * graph.log_thickness.grad.sum()
    assert (graph(keypoints, 32).sum() - before).item() == pytest.approx(predicted.item(), rel=0.02)


def test_a_graph_of_keypoints_alone_has_no_edges():
    graph = EdgeGraph(5, 1e-2, drawing="keypoints")
    assert graph.scaled_logits.shape == (5,)
    assert graph.weights.shape == (10,) and graph.matrix().abs().sum() == 0
    assert graph(torch.zeros(1, 5, 2), (8, 12)).shape == (1, 1, 8, 12)


@pytest.mark.parametrize("drawing", ["edges", "edge-channels", "keypoints"])
def test_relative_map_is_the_map_over_its_heaviest_weight_and_reaches_one(drawing):
    torch.manual_seed(3)
    model = AutoLink(replace(TINY, drawing=drawing))
    keypoints = torch.tensor([[[-0.75, -0.75], [0.75, -0.75], [-0.75, 0.75], [0.75, 0.75]]])  # pixel centres at 4²
    drawn = model.relative_edge_map(keypoints, 4)
    assert drawn.max().item() == pytest.approx(1, abs=1e-6)
    heaviest = F.softplus(model.graph.scaled_logits * 512).max()
    torch.testing.assert_close(drawn * heaviest, model.edge_map(keypoints, 4))


def test_optimisers_are_the_paper_s_and_the_official_code_s():
    model = AutoLink(TINY)
    adam = _optimizer(Options("x", learning_rate=3e-4), model)
    assert type(adam) is torch.optim.Adam
    assert adam.defaults["betas"] == (0.9, 0.99) and adam.defaults["weight_decay"] == 0 and adam.defaults["lr"] == 3e-4
    adamw = _optimizer(Options("x", optimizer="adamw", learning_rate=1e-4), model)
    assert type(adamw) is torch.optim.AdamW
    assert adamw.defaults["betas"] == (0.9, 0.999) and adamw.defaults["weight_decay"] == 1e-3


def test_edge_weights_have_a_learning_rate_of_their_own():
    model = AutoLink(TINY)
    adam = _optimizer(Options("x", learning_rate=3e-4, graph_learning_rate=5e-5), model)
    of = {id(p): group["lr"] for group in adam.param_groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if of[id(p)] == 5e-5} == {"graph.scaled_logits"}
    numbered = [p for group in adam.param_groups for p in group["params"]]
    assert all(a is b for a, b in zip(numbered, model.parameters(), strict=True))  # as in checkpoints from before


def test_options_reach_the_model():
    options = Options(
        "x", Path("y"), keypoints=3, thickness=1e-3, fixed_alpha=True, drawing="keypoints", learned_thickness="shared"
    )
    expected = {"learn_alpha": False, "drawing": "keypoints", "learned_thickness": "shared", "thickness": 1e-3}
    assert {key: getattr(options.model_config, key) for key in expected} == expected


def test_values_without_meaning_are_named():
    with pytest.raises(UserError, match="keypoints 1: give a whole number from 2"):
        EdgeGraph(1, 1e-2)
    with pytest.raises(UserError, match=r"mask ratio 1\.5: give a number from 0 to 1"):
        patch_mask(1, 32, ratio=1.5)
    with pytest.raises(UserError, match="64 mask cells do not fit on a side of 32 pixels"):
        patch_mask(1, 32, cells=64)
