"""Drawing edges: the fast engine against the formula, and the formula against its definition."""

import math

import pytest
import torch

from autolink import draw_edges
from autolink.edges import EdgeGraph
from autolink.errors import UserError
from autolink.rasterize.reference import draw_every_edge

ENGINES = ("reference", "thrifty")


def example(keypoints, *, spread=1.2, dtype=torch.float64):
    """Keypoints inside, on and beyond the border, and positive weights."""
    points = (torch.rand(2, keypoints, 2, dtype=dtype) * 2 - 1) * spread
    points[0, 0, 0] = 1.0
    return points, torch.rand(keypoints * (keypoints - 1) // 2, dtype=dtype) + 0.05


@pytest.mark.parametrize("engine", ENGINES)
def test_value_by_hand(engine):
    # Pixel centres of a 4×4 map lie at ±0.25 and ±0.75; the edge runs along y = 0 from x = −0.5 to 0.5.
    keypoints = torch.tensor([[[-0.5, 0.0], [0.5, 0.0]]])
    drawn = draw_edges(keypoints, torch.tensor([0.7]), 4, 0.1, engine)[0, 0]
    assert drawn[1, 1].item() == pytest.approx(0.7 * math.exp(-(0.25**2) / 0.1), rel=1e-5)
    assert drawn[0, 0].item() == pytest.approx(0.7 * math.exp(-(0.25**2 + 0.75**2) / 0.1), rel=1e-4)


@pytest.mark.parametrize("keypoints", [2, 3, 10, 32])
@pytest.mark.parametrize("thickness", [5e-5, 5e-3])
@pytest.mark.parametrize("size", [32, (24, 40)])
def test_fast_engine_equals_the_formula(keypoints, thickness, size):
    points, weights = example(keypoints)
    sigma2 = torch.tensor(thickness, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (points, weights, sigma2)]
    maps, gradients = [], []
    for engine in ENGINES:
        drawn = draw_edges(points, weights, size, sigma2, engine)
        upstream = torch.linspace(-1, 1, drawn.numel(), dtype=drawn.dtype).view_as(drawn)
        maps.append(drawn.detach())
        gradients.append(torch.autograd.grad((drawn * upstream).sum(), inputs))
    assert torch.allclose(*maps, atol=1e-12)
    for reference, fast in zip(*gradients):
        assert torch.allclose(reference, fast, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0])
def test_edges_that_cannot_win_are_left_out_without_a_trace(spread):
    # Five blocks of edges, weights over nine orders of magnitude as a trained graph has, every thickness its own.
    points, weights = example(24, spread=spread)
    weights = weights ** torch.linspace(1, 20, len(weights), dtype=torch.float64)[torch.randperm(len(weights))]
    thickness = torch.rand_like(weights) * 0.02 + 1e-4
    inputs = [t.requires_grad_() for t in (points, weights, thickness)]
    drawn, gradients = {}, {}
    for engine in ENGINES:
        drawn[engine] = draw_edges(points, weights, (13, 70), thickness, engine)
        upstream = torch.linspace(-1, 1, 2 * 13 * 70, dtype=torch.float64).view_as(drawn[engine])
        gradients[engine] = torch.autograd.grad((drawn[engine] * upstream).sum(), inputs)
    assert torch.allclose(drawn["reference"], drawn["thrifty"], rtol=1e-10, atol=1e-300)
    for reference, fast in zip(gradients["reference"], gradients["thrifty"]):
        assert torch.allclose(reference, fast, rtol=1e-8, atol=1e-9)


def test_most_edges_are_left_out(monkeypatch):
    tried = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args: tried.append(len(args[1])) or addmm(*args))
    points, weights = example(32, spread=0.9, dtype=torch.float32)
    draw_edges(points, weights, 128, 5e-4, "thrifty")
    every_pair_twice = 2 * 2 * (128 // 8) ** 2 * len(weights)  # along and across, on every tile of two images
    assert 0 < sum(tried) < 0.15 * every_pair_twice


def test_fast_engine_in_float32():
    points, weights = example(16, dtype=torch.float32)
    exact = draw_edges(points.double(), weights.double(), 128, 5e-4, "reference")
    assert (draw_edges(points, weights, 128, 5e-4) - exact).abs().max() < 1e-4


@pytest.mark.parametrize("keypoints", [2, 4])
@pytest.mark.parametrize("per_edge", [False, True])
def test_gradcheck(keypoints, per_edge):
    points, weights = example(keypoints, spread=0.9)
    thickness = torch.full((len(weights),) if per_edge else (), 0.05, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (points, weights, thickness)]
    assert torch.autograd.gradcheck(lambda p, w, t: draw_edges(p, w, (7, 5), t), inputs)


@pytest.mark.parametrize("engine", ENGINES)
def test_coincident_keypoints_draw_a_dot_with_finite_gradients(engine):
    points = torch.tensor([[[0.1, -0.2], [0.1, -0.2]]], dtype=torch.float64, requires_grad=True)
    weights = torch.ones(1, dtype=torch.float64, requires_grad=True)
    drawn = draw_edges(points, weights, 16, 0.02, engine)
    grid_x = (torch.arange(16, dtype=torch.float64) * 2 + 1) / 16 - 1
    distance = (grid_x[None] - 0.1) ** 2 + (grid_x[:, None] + 0.2) ** 2
    assert torch.allclose(drawn[0, 0], torch.exp(-distance / 0.02))
    gradients = torch.autograd.grad((drawn * torch.rand_like(drawn)).sum(), (points, weights))
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_edge_of_weight_zero_draws_nothing(engine):
    points, _ = example(3)
    weights = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    alone = draw_edges(points[:, :2], weights[:1], 16, 0.01, engine)
    drawn = draw_edges(points, weights, 16, 0.01, engine)
    assert torch.allclose(drawn, alone, atol=1e-12)
    assert torch.autograd.grad(drawn.sum(), weights)[0].isfinite().all()


def same_as_the_formula(points, weights, thickness, size):
    """What the fast engine draws, once it and its gradients are seen to be the formula's, NaN for NaN."""
    inputs = [t.requires_grad_() for t in (points, weights, thickness)]
    maps = [draw_edges(points, weights, size, thickness, engine) for engine in ENGINES]
    upstream = torch.linspace(-1, 1, maps[0].numel(), dtype=maps[0].dtype).view_as(maps[0])
    expected, found = ([drawn, *torch.autograd.grad(drawn, inputs, upstream)] for drawn in maps)
    for reference, fast in zip(expected, found):
        torch.testing.assert_close(fast, reference, rtol=1e-8, atol=1e-9, equal_nan=True)
    return maps[1].detach()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_keypoint_that_is_not_finite_shows_in_its_own_image_alone(value):
    points, weights = example(14)  # two blocks of edges
    points[1, 5, 0] = value
    drawn = same_as_the_formula(points, weights, torch.full_like(weights, 0.02), (18, 21))
    assert drawn[1].isnan().all() and drawn[0].isfinite().all()


def test_a_weight_or_thickness_that_is_not_a_number_shows_everywhere():
    for of in (0, 1):
        points, *shared = (*example(5), torch.full((10,), 0.02, dtype=torch.float64))
        shared[of][7] = math.nan
        assert same_as_the_formula(points, *shared, (9, 12)).isnan().all()


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 87), (torch.float64, 708)])
def test_faint_tails_are_drawn_as_far_as_the_precision_holds_them(dtype, least):
    points, weights = torch.tensor([[[-9.0, -9.0], [-8.8, -9.0]]], dtype=dtype), torch.ones(1, dtype=dtype)
    drawn, expected = (draw_edges(points, weights, 32, 197 / least, engine) for engine in ("thrifty", "reference"))
    assert 0.97 * least < -expected[0, 0, -1, -1].log() < least
    torch.testing.assert_close(drawn, expected, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=0)


def test_an_infinite_weight_is_infinite_until_its_edge_ends():
    points = torch.tensor([[[-0.9, -0.9], [-0.7, -0.9], [0.5, 0.9]]], dtype=torch.float64)
    weights = torch.tensor([math.inf, 1.0, 1.0], dtype=torch.float64)
    drawn = same_as_the_formula(points, weights, torch.full_like(weights, 3e-3), 16)
    assert drawn[0, 0, 0, 0] == math.inf and drawn[0, 0, -1, -1].isnan()  # exp(−d²/σ²) is 0 there


@pytest.mark.parametrize("thickness", [1e20, math.inf])
def test_edges_may_be_thicker_than_any_image(thickness):
    points, weights = example(4, dtype=torch.float32)
    for engine in ENGINES:
        drawn = draw_edges(points, weights, 16, thickness, engine)
        torch.testing.assert_close(drawn, weights.max().expand_as(drawn))


def test_more_edges_than_a_short_integer_counts():
    points, weights = example(258)
    weights[-200:] += 0.5  # edges beyond number 32,767 win
    same_as_the_formula(points, weights, torch.full_like(weights, 1e-3), 8)


def test_maximum_over_edges_not_sum():
    points, weights = example(5)
    every = draw_every_edge(points, weights, (16, 16), 0.01)
    assert torch.allclose(draw_edges(points, weights, 16, 0.01), every.max(1, keepdim=True).values)


def test_means_the_same_at_every_resolution():
    points, weights = torch.tensor([[[-0.6, -0.3], [0.5, 0.4]]]), torch.ones(1)
    # Half a pixel of 64 would change values by up to 0.04 here.
    large = torch.nn.functional.avg_pool2d(draw_edges(points, weights, 256, 0.1), 4)
    assert (large - draw_edges(points, weights, 64, 0.1)).abs().max() < 0.01


def test_autocast_changes_nothing():
    points, weights = example(8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        drawn = draw_edges(points.bfloat16(), weights, 64, 1e-4)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, draw_edges(points.bfloat16().float(), weights, 64, 1e-4))


def test_saves_no_tensor_with_an_edge_and_a_pixel_axis():
    points, weights = (t.requires_grad_() for t in example(32, dtype=torch.float32))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        draw_edges(points, weights, 64, 1e-3)
    assert max(saved) <= 2 * 64 * 64


def test_wrong_number_of_weights_is_named():
    with pytest.raises(ValueError, match="4 keypoints have 6 edges"):
        draw_edges(torch.zeros(1, 4, 2), torch.ones(5), 8, 0.1)


def test_graph_starts_as_the_official_one_and_its_logits_move_512_times_as_fast():
    graph = EdgeGraph(32, 1e-3)
    assert graph.weights.mean().item() == pytest.approx(0.018, abs=0.002)
    before = graph.scaled_logits.detach() * 512
    optimizer = torch.optim.SGD(graph.parameters(), lr=1e-4)
    graph.weights.sum().backward()
    optimizer.step()
    expected = -1e-4 * 512**2 * torch.sigmoid(before)  # SGD sees the factor twice, Adam once
    assert torch.allclose(graph.scaled_logits.detach() * 512 - before, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("weight", [1e-3, 0.13, 5.0, 1000.0])
def test_a_graph_starts_at_the_weight_asked_for(weight):
    graph = EdgeGraph(32, 1e-3)
    graph.start(weight)
    assert graph.weights.mean().item() == pytest.approx(weight, rel=0.03)
    assert (graph.scaled_logits * 512).std().item() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_start_without_meaning_is_named(weight):
    with pytest.raises(UserError, match=r"edge weight .*: give a number above 0"):
        EdgeGraph(3, 1e-3).start(weight)


def test_matrix_is_symmetric_in_the_order_of_the_weights():
    graph = EdgeGraph(4, 1e-3)
    matrix = graph.matrix()
    assert torch.equal(matrix, matrix.T) and matrix.diagonal().abs().sum() == 0
    assert torch.allclose(matrix[0, 1:], graph.weights[:3])
