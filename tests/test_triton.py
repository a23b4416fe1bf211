"""The fused GPU kernels against the formula: compiled where there is a GPU, in Triton's interpreter everywhere.

Triton decides at its import whether kernels are compiled or interpreted, so the last test runs this file again in a
process of its own, with the interpreter on.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from autolink import draw_edges
from autolink.rasterize import draw_edges_thrifty, find_engine

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this platform", allow_module_level=True)

from triton.runtime.interpreter import InterpreterBuilder

from autolink.rasterize import triton as kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
runs_kernels = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU, or the interpreter of the last test"
)


def example(batch, count, dtype=torch.float64, spread=1.2):
    """Keypoints inside, on and beyond the border, weights from 0.1 to 10, one σ² an edge around 1."""
    edges = count * (count - 1) // 2
    points = (torch.rand(batch, count, 2, dtype=dtype) * 2 - 1) * spread
    points[0, 0, 0] = 1.0
    weights = 10 ** (torch.rand(edges, dtype=dtype) * 2 - 1)
    return [tensor.to(DEVICE) for tensor in (points, weights, torch.rand(edges, dtype=dtype) + 0.5)]


def drawn_and_gradients(engine, inputs, size, upstream, deterministic=False):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    drawn = draw_edges(*inputs[:2], size, inputs[2], engine)
    torch.use_deterministic_algorithms(deterministic)
    try:
        return drawn.detach(), torch.autograd.grad(drawn, inputs, upstream)
    finally:
        torch.use_deterministic_algorithms(False)


def relative_error(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


@runs_kernels
@pytest.mark.parametrize(
    ("count", "size", "thickness"),
    [(2, (16, 16), 5e-3), (4, (9, 35), 5e-5), (5, (18, 21), 5e-3), (9, (17, 16), 0.3)],  # 9 keypoints: two chunks
)
def test_equals_the_formula_by_both_ways_to_sum_gradients(count, size, thickness):
    points, weights, spread = example(2 if count == 5 else 1, count)
    inputs = (points, weights, spread * thickness)
    upstream = torch.randn(len(points), 1, *size, dtype=torch.float64).to(DEVICE)
    drawn, gradients = drawn_and_gradients("reference", inputs, size, upstream)
    for deterministic in (False, True):
        fast, fast_gradients = drawn_and_gradients("triton", inputs, size, upstream, deterministic)
        assert torch.allclose(fast, drawn, rtol=0, atol=1e-12)
        assert all(gradient.abs().sum() > 0 for gradient in fast_gradients)
        for fast_gradient, gradient in zip(fast_gradients, gradients):
            assert torch.allclose(fast_gradient, gradient, rtol=1e-9, atol=1e-10)


@runs_kernels
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 87), (torch.float64, 708)])
def test_faint_tails_reach_tiles_far_from_every_edge(dtype, least):
    points = torch.tensor([[[-9.0, -9.0], [-8.8, -9.0]]], dtype=dtype, device=DEVICE)
    weights = torch.ones_like(points[0, :1, 0])
    drawn, expected = (draw_edges(points, weights, 96, 197 / least, engine) for engine in ("triton", "reference"))
    assert 0.98 * least < -expected[0, 0, -1, -1].log() < least  # nearly what this precision can hold
    assert torch.allclose(drawn, expected, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=0)


@runs_kernels
@pytest.mark.parametrize("scale", [1, 100])
def test_a_light_edge_that_wins_in_one_corner_is_not_left_out(scale):
    # At the corner the heavy dot, far away on the other side, draws exp(−3.9) = 0.021 and the light one 0.03.
    points = torch.tensor([[[-3.0, -3], [-3, -3], [0.94, 0.94], [0.94, 0.94]]], dtype=torch.float64, device=DEVICE)
    weights = torch.tensor([1, 0, 0, 0, 0, 0.03], dtype=torch.float64, device=DEVICE) * scale
    drawn, expected = (draw_edges(points, weights, 16, 8.0, engine) for engine in ("triton", "reference"))
    assert expected[0, 0, -1, -1].item() == pytest.approx(0.03 * scale, rel=1e-3)
    assert torch.allclose(drawn, expected, rtol=1e-12, atol=0)


@runs_kernels
def test_one_thickness_for_all_edges_in_float32():
    points, weights, _ = example(1, 5, torch.float32)
    exact = draw_edges(points.double(), weights.double(), (16, 30), 5e-4, "reference")
    assert (draw_edges(points, weights, (16, 30), 5e-4, "triton") - exact).abs().max() < 5e-4  # of up to 10


@runs_kernels
def test_deterministic_gradients_in_float32_are_the_same_bits_twice():
    inputs = example(1, 5, torch.float32)
    upstream = torch.randn(1, 1, 16, 20).to(DEVICE)
    one, two = (drawn_and_gradients("triton", inputs, (16, 20), upstream, True)[1] for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, two))


@runs_kernels
def test_gradcheck():
    inputs = [tensor.requires_grad_() for tensor in example(1, 3, spread=0.9)]
    assert torch.autograd.gradcheck(
        lambda points, weights, spread: draw_edges(points, weights, (4, 3), spread * 0.05, "triton"),
        inputs,
        nondet_tol=1e-12,  # the order of atomic additions
    )


@runs_kernels
def test_coincident_keypoints_draw_a_dot():
    points = torch.tensor([[[0.1, -0.2], [0.1, -0.2]]], dtype=torch.float64, device=DEVICE)
    inputs = (points, torch.ones_like(points[0, :1, 0]), torch.full_like(points[0, :1, 0], 0.02))
    upstream = torch.rand(1, 1, 16, 16, dtype=torch.float64).to(DEVICE)
    drawn, gradients = drawn_and_gradients("triton", inputs, (16, 16), upstream)
    grid = (torch.arange(16, dtype=torch.float64, device=DEVICE) * 2 + 1) / 16 - 1
    distance = (grid - 0.1) ** 2 + (grid[:, None] + 0.2) ** 2
    assert torch.allclose(drawn[0, 0], torch.exp(-distance / 0.02))
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


@runs_kernels
def test_weight_zero_draws_nothing():
    points, weights, spread = example(1, 3)
    upstream = torch.ones(1, 1, 16, 16, dtype=torch.float64).to(DEVICE)
    weights[1:] = 0
    alone = draw_edges(points[:, :2], weights[:1], 16, spread[:1] * 0.01, "reference")
    drawn, gradients = drawn_and_gradients("triton", (points, weights, spread * 0.01), 16, upstream)
    assert torch.allclose(drawn, alone, atol=1e-12)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert draw_edges(points, weights * 0, 16, 0.01, "triton").max() < 1e-20


@runs_kernels
def test_of_two_equal_edges_the_first_gets_the_gradient():
    points, weights, spread = example(1, 3)
    points[:, 2] = points[:, 1]  # edges 0–1 and 0–2 are one and the same
    inputs = (points, torch.ones_like(weights), torch.ones_like(spread) * 0.02)
    upstream = torch.ones(1, 1, 16, 16, dtype=torch.float64).to(DEVICE)
    drawn, (_, by_weight, _) = drawn_and_gradients("triton", inputs, 16, upstream)
    assert by_weight[0] > 0 and by_weight[1] == 0
    assert by_weight.sum().item() == pytest.approx(drawn.sum().item())  # ∂(w·e)/∂w = e = w·e where w = 1


@runs_kernels
def test_a_keypoint_that_is_not_a_number_is_seen_in_its_own_image_alone():
    points, weights, spread = example(2, 3)
    drawn = draw_edges(points, weights, 8, spread * 0.01, "triton")
    points[0, 0, 0] = torch.nan
    assert draw_edges(points, weights, 8, spread * 0.01, "triton")[0].isnan().all()
    assert torch.equal(draw_edges(points, weights, 8, spread * 0.01, "triton")[1], drawn[1])


@runs_kernels
def test_saves_one_small_integer_a_pixel():
    inputs = [tensor.requires_grad_() for tensor in example(1, 4, torch.float32)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        draw_edges(*inputs[:2], 16, inputs[2], "triton")
    (largest,) = [tensor for tensor in saved if tensor.numel() >= 16 * 16]
    assert largest.shape == (1, 1, 16, 16) and largest.dtype == torch.int16


@needs_gpu
def test_a_full_batch_on_the_gpu():
    inputs = example(64, 32, torch.float32)
    inputs[2] *= 1e-3
    upstream = torch.randn(64, 1, 128, 128, device=DEVICE)
    drawn, gradients = drawn_and_gradients("triton", inputs, 128, upstream)
    expected = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in inputs]
    for image in range(64):
        one = slice(image, image + 1)
        exact = [inputs[0][one].double(), inputs[1].double(), inputs[2].double()]
        truth, (by_point, by_weight, by_spread) = drawn_and_gradients("reference", exact, 128, upstream[one].double())
        assert (drawn[one] - truth).abs().max() < 1e-3  # of up to 10
        expected[0][one] = by_point
        expected[1] += by_weight
        expected[2] += by_spread
    for gradient, truth in zip(gradients, expected):
        assert relative_error(gradient, truth) < 1e-3
    one, two = (drawn_and_gradients("triton", inputs, 128, upstream, True)[1] for _ in range(2))
    for first, second, truth in zip(one, two, expected):
        assert torch.equal(first, second)
        assert relative_error(first, truth) < 1e-3


@needs_gpu
def test_gpus_get_this_engine_by_themselves():
    assert find_engine("auto", torch.device("cuda", 0)) is kernels.draw_edges_triton


def test_cpus_get_the_other_fast_engine():
    assert find_engine("auto", torch.device("cpu")) is draw_edges_thrifty


def test_wrong_engines_are_named():
    with pytest.raises(ValueError, match="'quick'; expected 'auto'"):
        find_engine("quick", torch.device("cpu"))
    if not INTERPRETED:
        with pytest.raises(ValueError, match="keypoints are on cpu: take 'thrifty'"):
            draw_edges(torch.zeros(1, 2, 2), torch.ones(1), 8, 0.1, "triton")


def test_bound_by_hand():
    # 2 images of 3 edges and 8 pixels are 48 pairs of nine instructions, a billion of which are issued a second.
    assert kernels.arithmetic_bound_seconds(2, 3, (2, 4), 2e9) == pytest.approx(48 * 9e-9)


@pytest.mark.skipif(INTERPRETED, reason="compiles nothing")
@pytest.mark.parametrize("name", ["_tabulate", "_draw", "_sum_by_tile", "_sum_by_edge"])
def test_compiles_for_a_gpu_that_need_not_be_there(name):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(kernels, name)
    types = dict.fromkeys(("ends", "order"), "*i64") | dict.fromkeys(("count", "edges", "height", "width"), "i32")
    types |= {"winners": "*i16"}
    signature = {a: "constexpr" if a.isupper() else types.get(a, "*fp32") for a in kernel.arg_names}
    constants = {"CHUNK": 32, "SIDE": 16, "BLOCK": 256, "VANISHING": 104.0}
    source = ASTSource(kernel, signature, {a: constants[a] for a, kind in signature.items() if kind == "constexpr"})
    compiled = triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": 1, "enable_fp_fusion": True})
    assert len(compiled.asm["cubin"]) > 1000
    assert ".local" not in compiled.asm["ptx"]  # everything stays in registers


@pytest.mark.skipif(INTERPRETED, reason="is the interpreter")
@pytest.mark.skipif(
    not hasattr(InterpreterBuilder, "get_int1_ty"), reason="the interpreter of this Triton (3.2) lacks one-bit integers"
)
def test_all_of_this_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout[-4000:]
