"""A training step of the learner: ours against the published formulation, each in processes of their own.

Published: float32, contiguous tensors, every edge's map in memory, bilinear resampling, a convolution and then the
halving, a plain optimiser; on a GPU under fp16 autocast. Ours: what `autolink train` does. Both take the same images,
masks and initial weights. The loss looks through VGG16 at 224² with random weights, on which speed does not depend.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable

import torch
from _measure import in_child, matrix_peak, peak_megabytes, print_table, seconds
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from autolink import decoder, edges, layers, losses
from autolink import features as extractors
from autolink.data import open_data
from autolink.devices import computes_bfloat16, pick_device
from autolink.losses import PerceptualLoss
from autolink.masking import patch_mask
from autolink.model import AutoLink, AutoLinkConfig
from autolink.rasterize import draw_edges_reference
from autolink.training import seeded_generator, to_network

# Width, keypoints, batch.
CASES = [(1.0, 10, 4), (1.0, 32, 4), (0.25, 10, 16)] if pick_device().type == "cpu" else [(1.0, 10, 64), (1.0, 32, 64)]
CURVE_STEPS, CURVE_SIZE, CURVE_BATCH = 200, 64, 8
Step = Callable[[Tensor, Tensor], Tensor]


def use_published_layers() -> None:
    """Exchange this process's fast paths for the published ones."""

    def halve(x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)

    def double(x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def conv_then_halve(self: layers.ConvDown, x: Tensor) -> Tensor:
        return halve(functional.conv2d(x, self.weight, self.bias, padding=self.padding))

    decoder.down, decoder.up, layers.up = halve, double, double
    layers.ConvDown.forward = conv_then_halve
    edges.find_engine = lambda name, device: draw_edges_reference
    losses.mean_difference = lambda a, b, power: (a.float() - b.float()).abs().pow(power).mean()


def make_step(published: bool, width: float, size: int, features: str, keypoints: int = 10) -> Step:
    """A function that makes one training step and returns the loss."""
    device = pick_device()
    torch.manual_seed(0)
    model = AutoLink(AutoLinkConfig(keypoints, image_size=size, width=width)).to(device).train()
    if features == "vgg16":
        extractors._load_features = lambda *_: extractors.models.vgg16().features[:23].state_dict()
    loss_of = PerceptualLoss(features, input_size=224 if features == "vgg16" else None).to(device)
    if published:
        use_published_layers()
        for module in model.modules():
            if isinstance(module, nn.LeakyReLU):
                module.inplace = False
    else:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 4e-4, betas=(0.9, 0.99), fused=not published)
    dtype = torch.float16 if published else torch.bfloat16
    autocast = device.type == "cuda" if published else computes_bfloat16(device)
    scaler = torch.amp.GradScaler(device.type, enabled=autocast and published)

    def step(images: Tensor, mask: Tensor) -> Tensor:
        if published:
            images = images.contiguous()
        with torch.autocast(device.type, dtype, enabled=autocast):
            loss = loss_of(model(images, mask).images, images)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def measure(published: bool, width: float, keypoints: int, batch: int) -> dict[str, float]:
    """Seconds and floating point operations of a step, and the peak of the process in megabytes."""
    device = pick_device()
    step = make_step(published, width, 128, "vgg16", keypoints)
    images = to_network(torch.randint(256, (batch, 3, 128, 128), dtype=torch.uint8), device)
    mask = patch_mask(batch, 128, device=device)
    with FlopCounterMode(display=False) as counter:
        step(images, mask)
    times = [seconds(lambda: step(images, mask)) for _ in range(2)]
    return {"seconds": min(times), "flop": counter.get_total_flops(), "megabytes": peak_megabytes()}


def curve(published: bool, seed: int) -> list[float]:
    """Losses of a short training on synthetic figures; the seed sets the order of images and the masks."""
    features = "squeezenet" if os.environ.get("AUTOLINK_WEIGHTS") else "pyramid"
    step = make_step(published, 0.25, CURVE_SIZE, features)
    data = open_data("synthetic", CURVE_SIZE)
    seen = []
    for number in range(CURVE_STEPS):
        generator = seeded_generator(seed, number, 0, "benchmark")
        picked = torch.randint(len(data), (CURVE_BATCH,), generator=generator).tolist()
        images = to_network(default_collate([data[i].image for i in picked]), pick_device())
        mask = patch_mask(CURVE_BATCH, CURVE_SIZE, generator=generator, device=images.device)
        seen.append(step(images, mask).item())
    return seen


def compare_speed() -> None:
    """Images a second of both, alternating processes."""
    device = pick_device()
    peak = matrix_peak(device, torch.bfloat16 if computes_bfloat16(device) else torch.float32)
    print(f"Measured matrix peak: {peak / 1e9:.0f} GFLOP/s.\n")

    def rows() -> list[list[object]]:
        for case in CASES:
            found = [[in_child(__file__, "--measure", published, *case) for published in (1, 0)] for _ in range(2)]
            published, ours = (min(runs, key=lambda run: run["seconds"]) for runs in zip(*found))
            batch = case[-1]
            yield (
                *case,
                f"{published['seconds'] / batch:.3f}",
                f"{ours['seconds'] / batch:.3f}",
                f"**{published['seconds'] / ours['seconds']:.1f}×**",
                f"{published['flop'] / ours['flop']:.2f}×",
                f"{ours['flop'] / ours['seconds'] / peak:.0%}",
                f"{published['megabytes']:.0f}",
                f"{ours['megabytes']:.0f}",
            )

    header = "width | keypoints | batch | published s/image | ours s/image | faster | fewer FLOP | of the matrix peak"
    print_table([*header.split(" | "), "published MB", "ours MB"], rows())


def compare_curves() -> None:
    """Whether both learn the same: distance between loss curves beside that between two orders of the data."""
    published, other, ours = (in_child(__file__, "--curve", *of) for of in ((1, 0), (1, 1), (0, 0)))

    def apart(a: list[float], b: list[float]) -> str:
        return f"{statistics.mean(abs(x - y) / y for x, y in zip(a, b)):.2%}"

    print(f"{CURVE_STEPS} steps, synthetic figures at {CURVE_SIZE}², width 0.25, batch {CURVE_BATCH}:\n")
    print_table(
        ["", "mean loss of the last 50 steps", "mean distance to published at each step"],
        [
            ("published", f"{statistics.mean(published[-50:]):.4f}", ""),
            ("published, other order and masks", f"{statistics.mean(other[-50:]):.4f}", apart(other, published)),
            ("ours", f"{statistics.mean(ours[-50:]):.4f}", apart(ours, published)),
        ],
    )


KINDS = {
    "convolution": ("conv",),
    "batch normalisation": ("batch_norm",),
    "activations": ("relu", "clamp_min", "threshold"),
    "resampling and pooling": ("pool", "upsample", "replication_pad"),
    "conversion and copies": ("copy_", "cat", "fill_", "_to_copy"),
    "optimiser": ("adam",),
    "drawing": ("DrawEdges",),
}


def profile(batch: int) -> None:
    """Where the time of one of our steps goes, by kind of operation, at the paper's size."""
    device = pick_device()
    step = make_step(False, 1.0, 128, "vgg16")
    images = to_network(torch.randint(256, (batch, 3, 128, 128), dtype=torch.uint8), device)
    mask = patch_mask(batch, 128, device=device)
    step(images, mask)
    kind = torch.profiler.ProfilerActivity.CUDA if device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as recorded:
        step(images, mask)
    spent = dict.fromkeys([*KINDS, "all else: sums, differences, norms"], 0.0)
    for event in recorded.key_averages():
        of = next((name for name, parts in KINDS.items() if any(p in event.key for p in parts)), list(spent)[-1])
        spent[of] += event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    print_table(["operations", "share"], [(of, f"{time / sum(spent.values()):.0%}") for of, time in spent.items()])
    for dtype in (torch.float32, torch.bfloat16):
        print(f"Matrix peak in {dtype}: {matrix_peak(device, dtype) / 1e9:.0f} GFLOP/s.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=4, metavar=("PUBLISHED", "WIDTH", "KEYPOINTS", "BATCH"))
    parser.add_argument("--curve", nargs=2, type=int, metavar=("PUBLISHED", "SEED"))
    parser.add_argument("--profile", type=int, metavar="BATCH", help="where the time of our step goes")
    options = parser.parse_args()
    if options.profile:
        profile(options.profile)
    elif options.measure:
        published, width, keypoints, batch = options.measure
        print(json.dumps(measure(published == "1", float(width), int(keypoints), int(batch))))
    elif options.curve:
        print(json.dumps(curve(bool(options.curve[0]), options.curve[1])))
    else:
        compare_speed()
        compare_curves()


if __name__ == "__main__":
    main()
