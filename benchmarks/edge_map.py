"""Drawing edges, forward and backward, float32: the default engine against the formula (`reference`).

Time is the least of alternating repetitions; memory is the growth of the process's peak in a process of its own.
"""

from __future__ import annotations

import argparse
import json

import torch
from _measure import in_child, matrix_peak, peak_megabytes, print_table, seconds

from autolink import draw_edges
from autolink.devices import pick_device

DEVICE = pick_device()
ON_GPU = DEVICE.type == "cuda"
CASES = [(64, 10), (64, 16), (64, 32)] if ON_GPU else [(8, 10), (8, 16), (4, 32), (1, 64)]  # batch, keypoints
SIZES = [(32, 32), (128, 128), (256, 256), (512, 512), (96, 320)]
THICKNESS = 1e-3
REPETITIONS = 4


def weights_of(kind: str, keypoints: int) -> torch.Tensor:
    """Edge weights: `random` in [0, 1], or `sparse` as training leaves them: a few strong edges, all others near 0."""
    edges = keypoints * (keypoints - 1) // 2
    if kind == "random":
        return torch.rand(edges)
    weights = torch.full((edges,), 0.002)
    weights[torch.randperm(edges)[: keypoints - 1]] = 0.5
    return weights


def make(batch: int, keypoints: int, kind: str = "random") -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    points, weights = torch.rand(batch, keypoints, 2) * 2 - 1, weights_of(kind, keypoints)
    return points.to(DEVICE).requires_grad_(), weights.to(DEVICE).requires_grad_()


def draw(engine: str, points: torch.Tensor, weights: torch.Tensor, size: tuple[int, int] = (128, 128)) -> None:
    draw_edges(points, weights, size, THICKNESS, engine).sum().backward()


def memory(engine: str, batch: int, keypoints: int) -> float:
    """Megabytes by which drawing once raises the peak of this process."""
    draw(engine, *make(1, 2))  # libraries loaded, threads started
    inputs = make(batch, keypoints)
    before = peak_megabytes()
    draw(engine, *inputs)
    return peak_megabytes() - before


def fastest(engines: tuple[str, ...], *inputs: object) -> list[float]:
    """Least seconds of each engine, in turns."""
    times = {engine: [] for engine in engines}
    for _ in range(REPETITIONS):
        for engine in engines:
            times[engine].append(seconds(lambda engine=engine: draw(engine, *inputs)))
    return [min(of) for of in times.values()]


def against_the_formula() -> list[tuple[object, ...]]:
    for batch, keypoints in CASES:
        slow, fast = fastest(("reference", "auto"), *make(batch, keypoints))
        large, small = (in_child(__file__, "--memory", engine, batch, keypoints) for engine in ("reference", "auto"))
        ratio = f"{large / small:.0f}×" if small >= 1 else f"over {large:.0f}×"
        yield (
            batch,
            keypoints,
            f"{slow * 1e3:.0f}",
            f"{fast * 1e3:.1f}",
            f"**{slow / fast:.0f}×**",
            (f"{large:.0f}"),
            f"{small:.1f}",
            ratio,
        )


def growth() -> list[tuple[object, ...]]:
    for keypoints in (8, 16, 32, 64):
        times = [fastest(("auto",), *make(8, keypoints, kind))[0] for kind in ("random", "sparse")]
        used = in_child(__file__, "--memory", "auto", 8, keypoints)
        edges = keypoints * (keypoints - 1) // 2
        yield keypoints, edges, *(f"{t * 1e3:.1f}" for t in times), f"{used:.1f}"


def sizes() -> list[tuple[object, ...]]:
    for size in SIZES:
        slow, fast = fastest(("reference", "auto"), *make(2, 16), size)
        yield f"{size[0]}×{size[1]}", f"{slow * 1e3:.0f}", f"{fast * 1e3:.1f}", f"{slow / fast:.0f}×"


def bound() -> list[tuple[object, ...]]:
    """The GPU's engine against what its arithmetic alone would take, at the rate of a float32 matrix product."""
    from autolink.rasterize.triton import arithmetic_bound_seconds

    rate = matrix_peak(DEVICE, torch.float32, 8192)
    for batch, keypoints in CASES:
        points, weights = (x.detach() for x in make(batch, keypoints))
        forward = min(seconds(lambda p=points, w=weights: draw_edges(p, w, 128, THICKNESS)) for _ in range(20))
        least = arithmetic_bound_seconds(batch, keypoints, (128, 128), rate)
        yield batch, keypoints, f"{forward * 1e3:.3f}", f"{least * 1e3:.3f}", f"{forward / least:.1f}×"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", nargs=3, metavar=("ENGINE", "BATCH", "KEYPOINTS"))
    options = parser.parse_args()
    if options.memory:
        engine, batch, keypoints = options.memory
        print(json.dumps(memory(engine, int(batch), int(keypoints))))
        return
    print("128², random keypoints and weights:\n")
    header = ["batch", "keypoints", "formula ms", "ours ms", "faster", "formula MB", "ours MB", "smaller"]
    print_table(header, against_the_formula())
    print("Growth with the number of keypoints, batch 8, 128². Sparse: K − 1 edges of weight 0.5, the others 0.002, as")
    print("training leaves them:\n")
    print_table(["keypoints", "edges", "random ms", "sparse ms", "peak MB"], growth())
    print("Sizes, batch 2, 16 keypoints:\n")
    print_table(["H×W", "formula ms", "ours ms", "faster"], sizes())
    if ON_GPU:
        print("Forward pass against its arithmetic bound:\n")
        print_table(["batch", "keypoints", "ms", "bound ms", "over the bound"], bound())


if __name__ == "__main__":
    main()
