"""Do the tests see a wrong formula? Each of these one-line changes is made in a copy, and must fail the tests named.

`python benchmarks/mutations.py` prints a table; `python benchmarks/mutations.py warp motion` tries those of files whose
names contain a word. Add what a test should have seen.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from _measure import print_table

ROOT = Path(__file__).parent.parent


class Mutation(NamedTuple):
    """One change, to one place of one file."""

    file: str
    tests: str
    """Names of test files, and then what else pytest takes."""
    right: str
    """Stands in the file once."""
    wrong: str


MUTATIONS = """\
autolink/train.py: training -k first_step
- draws = [seeded_generator(options.seed, step, rank, "flip") for _ in range(2)]
+ draws = [seeded_generator(options.seed, step, rank, "flip")] * 2
autolink/train.py: training -k vgg16
- loss_size = 224 if options.loss_size is None and options.perceptual == "vgg16" else options.loss_size
+ loss_size = options.loss_size
autolink/train.py: training -k first_step
- rate if graph_rate is None else graph_rate
+ rate
- loss + options.agreement_weight * disagreement
+ loss + 0 * options.agreement_weight * disagreement
- rate, betas=(0.9, 0.99), fused=True)
+ rate, betas=(0.9, 0.999), fused=True)
- betas=(0.9, 0.999), weight_decay=1e-3
+ betas=(0.9, 0.999)
autolink/model.py: training -k first_step
- at_side(images if looks is None else looks, mask.shape[-1])
+ at_side(images, mask.shape[-1])
apps/gan/train.py: gan_train -k first_step
- MAPPING_RATE = 0.01
+ MAPPING_RATE = 1.0
apps/gan/train.py: gan_train -k 'first_step or all_of'
- options.r1_gamma / 2 * options.r1_every if
+ options.r1_gamma / 2 if
- options.pose_weight * POSE_EVERY if
+ options.pose_weight if
apps/gan/train.py: gan_train -k all_of
- 0.5 ** (options.batch_size / options.ema_images)
+ 0.5 ** (1 / options.ema_images)
apps/gan/train.py: gan_train -k first_step
- betas=(0.0, 0.99)
+ betas=(0.5, 0.99)
apps/gan/game.py: gan_train -k first_step
- judge(torch.cat(self._judged(fake, part.edge_maps, draws), dim=1))
+ judge(torch.cat([fake, part.edge_maps], dim=1))
- loss = loss + pose_weight * distance
+ loss = loss + 0.9 * pose_weight * distance
apps/gan/game.py: gan_train -k 'first_step or pose_distance'
- locate(images.clamp(-1, 1))
+ locate(images)
apps/pose_transfer/training_step.py: transfer_train -k first_step
- loss = loss + self.gan_weight * terms["gan"]
+ loss = loss + 0 * terms["gan"]
- loss = loss + r1_weight * r1_penalty(real_logits, real)
+ loss = loss + 0.9 * r1_weight * r1_penalty(real_logits, real)
apps/pose_transfer/train.py: transfer_train -k 'first_step or all_of'
- self.r1_gamma / 2 * self.r1_every if
+ self.r1_gamma / 2 if
apps/pose_transfer/train.py: transfer_train -k first_step
- options.learning_rate, betas=(0.0, 0.99)
+ options.learning_rate, betas=(0.9, 0.99)
apps/pose_transfer/train.py: transfer_adapt -k first_step
- perceptual: float = 1.0
+ perceptual: float = 0.9
autolink/training/checkpoints.py: training -k ema
- min(decay, (1 + count) / (10 + count))
+ min(decay, (1 + count) / (2 + count))
autolink/pixels.py: training -k first_step
- images.float() / 127.5 - 1
+ images.float() / 128 - 1
autolink/training/order.py: training -k order
- numbers[beyond] = left << half | right
+ numbers[beyond] = (left << half | right) % np.uint64(length)
autolink/training/order.py: training -k batches
- seeded_generator(self.seed, epoch, 0, "order")
+ seeded_generator(self.seed, 0, 0, "order")
autolink/training/order.py: training -k order
- FEISTEL_ROUNDS = 6
+ FEISTEL_ROUNDS = 2
autolink/losses.py: losses -k hand
- = not extractor.alike, extractor.smallest
+ = False, extractor.smallest
- + 1e-6) ** self.power
+ + 1e-6)
autolink/features.py: losses -k hand
- (3, 8, 15, 22)
+ (1, 6, 11, 22)
- (1, 4, 7, 12)
+ (1, 3, 6, 12)
- (0.229, 0.224, 0.225)
+ (0.229, 0.224, 0.25)
autolink/losses.py: losses -k mean_difference
- else difference * 2
+ else difference
autolink/priors.py: losses -k disagreement
- keepdim=True) + KNOT).sqrt()
+ keepdim=True) + KNOT)
autolink/edges.py: gan_train -k first_step
- / self._stroke_weights.max()
+ / self._stroke_weights.sum()
autolink/edges.py: edges
- scaled_logits.float() * LEARNING_RATE_FACTOR
+ scaled_logits.float() * 256
autolink/rasterize/thrifty.py: edges -k short
- torch.int16 if len(weights) <= 2**15
+ torch.int16 if len(weights) <= 2**16
autolink/rasterize/thrifty.py: edges
- 1 - math.log(info.tiny) - math.log(info.eps)
+ 1 - math.log(info.tiny) / 2
- (distance + radius)
+ (distance + 0.5 * radius)
autolink/rasterize/triton.py: triton -k interpreter
- torch.float32: 104.0
+ torch.float32: 80.0
- thickness.square()
+ thickness
autolink/geometry.py: geometry edges
- * 2 + 1) / count - 1
+ * 2) / (count - 1) - 1
autolink/detector.py: model
- <= CONFIDENCE_RADIUS**2
+ <= CONFIDENCE_RADIUS
autolink/masking.py: model training -k 'mask or first_step'
- >= ratio
+ < ratio
autolink/graph.py: graph
- eigenvectors[:, :count]
+ eigenvectors[:, -count:]
- scale[:, None] * weights * scale
+ scale[:, None] * weights
autolink/metrics.py: metrics
- errors.mean() + 3 * errors.std(correction=0)
+ errors.mean() + 2 * errors.std(correction=0)
- < 6).double()
+ < 8).double()
- return torch.minimum(*both).mean()
+ return next(both).mean()
autolink/commands/calibrate.py: calibrate
- penalty[-1] = 0
+
- dtype=hat.dtype) - hat,
+ dtype=hat.dtype),
- .square().sum((1, 3)).sqrt()
+ .square().sum((1, 3))
autolink/smoothing.py: smoothing
- angle = 2 * math.pi * cutoff * elapsed
+ angle = math.pi * cutoff * elapsed
- self.velocity.norm(dim=-1, keepdim=True)
+ self.velocity.abs()
- _weight(self.speed_cutoff, elapsed)
+ _weight(self.min_cutoff, elapsed)
autolink/adversarial.py: adversarial gan
- (first - second).square() / 4
+ (first - second).square() / 2
- * math.sqrt(0.5)  #
+   #
autolink/adversarial.py: adversarial gan_train -k 'r1 or first_step'
- square().sum((1, 2, 3)).mean()
+ square().mean()
apps/gan/ada.py: gan_augment
- change if self.overfitting > TARGET
+ change if self.overfitting > 0.3
- turned < probability, (quarters
+ turned < probability / 2, (quarters
- kornia.RandomHorizontalFlip(p=probability / 2)
+ kornia.RandomHorizontalFlip(p=probability)
- (angle * 2 - 1) * math.pi
+ angle * math.pi
- probability, factor * 2, 1)
+ probability, factor, 1)
apps/gan/augment.py: gan_augment
- (contrast + 0.5)
+ (contrast + 0.4)
- (2 * saturation)
+ saturation
apps/gan/generator.py: gan
- style.square() @ weight.square()
+ style @ weight.square()
- self.w_average.lerp(self.generator.mapping(z).to(self.w_average), truncation)
+ self.generator.mapping(z).to(self.w_average).lerp(self.w_average, truncation)
apps/gan/metrics.py: gan_metrics
- + spread - 2 * common
+ + spread - common
- (len(features) - 1) ** 0.5
+ len(features) ** 0.5
- (total(x, x) - alone)
+ total(x, x)
- kthvalue(NEIGHBOURS + 1)
+ kthvalue(NEIGHBOURS)
apps/pose_transfer/warp.py: transfer_network
- square() + SOFTNESS**2)
+ square() + SOFTNESS)
- a + RIGIDITY, d + RIGIDITY
+ a + 10 * RIGIDITY, d + 10 * RIGIDITY
- _outer(driving, displacement) - _outer(mean, mean_displacement)
+ _outer(driving, displacement)
- padding_mode="border", align_corners=False)
+ padding_mode="zeros", align_corners=False)
- torch.sigmoid(follow + 1) * flow
+ torch.sigmoid(follow) * flow
apps/pose_transfer/motion.py: motion
- SCALE_LIMITS = (1 / 3, 3.0)
+ SCALE_LIMITS = (1 / 3, 2.0)
- (driving - reference) * scale_between(source, reference)
+ (driving - reference)
- own / theirs, scale / BUILD_LIMIT
+ theirs / own, scale / BUILD_LIMIT
- scale * BUILD_LIMIT)
+ scale * 2 * BUILD_LIMIT)
- start + column)
+ column)
apps/pose_transfer/metrics.py: transfer_evaluate
- video).diff(n=2, dim=0)
+ video).diff(n=1, dim=0)
- poses - poses.mean(0)
+ poses
autolink/tracking/windows.py: tracking_windows
- (places - start) / (FEATHER * side)
+ (places - start) / side
apps/pose_transfer/casting.py: transfer_casting
- (-1 - low).clamp(min=0) + (1 - high).clamp(max=0)
+ (-1 - low).clamp(min=0)
autolink/model.py: convert
- OFFICIAL_SCALE = (127 / 128) / (31 / 32)
+ OFFICIAL_SCALE = (31 / 32) / (127 / 128)
autolink/decoder.py: training model -k first_step
- self.alpha * masked_images
+ masked_images
autolink/data/pairs.py: transfer_pairs
- .randrange(1, len(members))
+ .randrange(len(members))
experiments/distil.py: distil
- (1 + math.cos(math.pi * step / steps)) / 2
+ (1 + math.cos(math.pi * step / steps))
- loss = errors["features"] + errors["changes"]
+ loss = errors["features"]
- (moved.square().mean((1, 2, 3)) + FAINT * w.var())
+ moved.square().mean((1, 2, 3))
apps/gan/project.py: gan_sample -k project
- distance(made, image).mean() + functional.mse_loss(made, image)
+ distance(made, image).mean()
- if loss.item() < best_loss:
+ if True:
apps/gan/disentangle.py: gan_evaluate
- (1 - error.square().sum() / asked.square().sum())
+ (1 - error.abs().sum() / asked.abs().sum())
- .square().sum(-1) / REACH**2
+ .square().sum(-1) / REACH
autolink/tracking/confidence.py: tracking_search tracking_follow
- max(1.0, USUAL / usual)
+ 1.0
autolink/tracking/follow.py: tracking_follow
- self.offset, self.ratio = -pose.mean(0) / size, 2 / size
+ self.offset, self.ratio = pose.mean(0) / size, 2 / size
- begin = np.searchsorted(times, times - CAMERA_SECONDS)
+ begin = np.searchsorted(times, times)
autolink/tracking/search.py: tracking_search
- if found.min() < CLEARLY * shaky else middle
+ if found.min() < shaky else middle
- dim=-1).mean((1, 2)) / sides
+ dim=-1).mean((1, 2))
"""
"""A file and the tests that must fail, then what stands in the file and what stands there wrongly."""


def mutations() -> Iterator[Mutation]:
    """What `MUTATIONS` says."""
    file = tests = right = ""
    for line in MUTATIONS.splitlines():
        if line.startswith("- "):
            right = line[2:]
        elif line.startswith("+"):
            yield Mutation(file, tests, right, line[2:])
        else:
            file, tests = line.split(": ")


def copy_into(folder: Path) -> None:
    """A copy of the project's files in which `autolink` and `autolink_apps` are found before the installed ones."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "autolink_apps").symlink_to("apps", target_is_directory=True)


def failed(folder: Path, tests: str) -> str | None:
    """The first of the tests that fails in a copy, or None.

    Raises:
        SystemExit: If pytest could not run them.
    """
    words = shlex.split(tests)
    names = itertools.takewhile(lambda word: not word.startswith("-"), words)
    files = [f"tests/test_{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files, *words[len(files) :]]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    found = re.search(r"^(?:FAILED|ERROR) \S+?::(\w+)", done.stdout, re.MULTILINE)
    return found[1] if found else None


def outcomes(chosen: list[Mutation]) -> Iterator[tuple[str, ...]]:
    """A row for each mutation: file, what was changed, and the test that saw it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_into(copy)
        for mutation in chosen:
            file = copy / mutation.file
            text = file.read_text()
            if text.count(mutation.right) == 1:
                file.write_text(text.replace(mutation.right, mutation.wrong))
                seen = failed(copy, mutation.tests)
                file.write_text(text)
                outcome = f"`{seen}`" if seen else "**unseen**"
            else:
                outcome = f"**stands there {text.count(mutation.right)} times**"
            yield f"`{mutation.file}`", f"`{mutation.right}` → `{mutation.wrong}`", outcome


def main() -> None:
    words = sys.argv[1:]
    chosen = [m for m in mutations() if not words or any(word in m.file for word in words)]
    print_table(["file", "change", "seen by"], outcomes(chosen))


if __name__ == "__main__":
    main()
