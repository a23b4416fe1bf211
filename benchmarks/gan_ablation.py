"""What lazy R1, augmentation and averaged weights bring: one training run a variant, all with the same seed and images.

    python benchmarks/gan_ablation.py --data faces --autolink faces --image-size 64 --width 0.25 --steps 3000 \
        --output runs/gan-ablation

Every option of `apps/gan/train.py` holds for all variants but for what they change. Each run's averaged weights and its
last ones are measured by `autolink_apps.gan.evaluate`. The same command goes on where it was interrupted: finished
variants are read, a half one is resumed. In the output folder: a run folder a variant, `table.md`, and `curve.png`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import tyro

from autolink.errors import UserError, command
from autolink.train import autolink_for
from autolink.training import CHECKPOINT, Diverged, as_json
from autolink_apps.gan import train
from autolink_apps.gan.curve import draw_curve
from autolink_apps.gan.evaluate import Options as EvaluateOptions
from autolink_apps.gan.evaluate import evaluate

VARIANTS = {
    "R1 every 16th step, adaptive augmentation": {},
    "R1 every step": {"r1_every": 1},
    "no augmentation": {"augment": "none"},
    "DiffAugment": {"augment": "diff"},
}
METRICS = ("fid", "precision", "recall", "squeezenet_frechet", "squeezenet_precision", "squeezenet_recall")
POSES = ("pose_error", "pose_error_chance")
UNCOMPARED = ("output", "resume", "workers", "log_every", "sample_every", "save_every", "data_root")
logger = logging.getLogger("autolink")


@dataclass
class Options(train.Options):
    output: Path = Path("runs/gan-ablation")
    r1_every: tyro.conf.Suppress[int] = 16
    augment: tyro.conf.Suppress[str] = "ada"
    resume: tyro.conf.Suppress[bool] = False
    dry_run: tyro.conf.Suppress[bool] = False
    push_to_hub: tyro.conf.Suppress[str | None] = None


def ablate(options: Options) -> Path:
    """Train and measure what is missing; returns the table."""
    options = train.with_defaults(options)
    claim(options)
    learner = {"perceptual": options.perceptual, "steps": options.autolink_steps}
    autolink = str(autolink_for(options.autolink, options, **learner))
    results = {name: run(dataclasses.replace(options, autolink=autolink), name) for name in VARIANTS}
    folders = [folder(options, name) for name, result in results.items() if "diverged" not in result]
    if folders:
        draw_curve(folders, options.output / "curve.png")
    path = options.output / "table.md"
    path.write_text(table(results, options))
    return path


def claim(options: Options) -> None:
    """Note the options in the folder, or refuse a folder that was begun with others."""
    about = {key: value for key, value in as_json(options).items() if key not in UNCOMPARED}
    path = options.output / "ablation.json"
    if path.is_file() and json.loads(path.read_text()) != about:
        raise UserError(f"{options.output} holds an ablation with other options; repeat them, or name another --output")
    options.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about, indent=2) + "\n")


def folder(options: Options, name: str) -> Path:
    return options.output / re.sub(r"[^\w]+", "-", name)


def run(options: Options, name: str) -> dict[str, Any]:
    """Train and measure one variant, as far as that is not done; the outcome is `result.json` in its folder."""
    output = folder(options, name)
    path = output / "result.json"
    if not path.is_file():
        logger.warning("%s", name)
        settings = {field.name: getattr(options, field.name) for field in dataclasses.fields(train.Options)}
        settings |= {"output": output, "resume": (output / CHECKPOINT).is_file(), **VARIANTS[name]}
        try:
            train.train(train.Options(**settings))
            result = {"images_per_second": speed(output)}
            for weights, last in (("averaged", False), ("last", True)):
                asked = EvaluateOptions(
                    model=str(output),
                    data=options.data,
                    data_root=options.data_root,
                    images=options.metric_images,
                    features=options.metric_features,
                    last_weights=last,
                )
                result[weights] = evaluate(asked)
        except Diverged as error:
            result = {"diverged": str(error)}
        path.write_text(json.dumps(result, indent=2) + "\n")
    return json.loads(path.read_text())


def speed(output: Path) -> float:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return mean(line["images_per_second"] for line in lines if "images_per_second" in line)


def table(results: dict[str, dict[str, Any]], options: Options) -> str:
    """A Markdown table: two lines a variant, averaged and last weights."""
    measured = {key for result in results.values() for key in result.get("averaged", {})}
    keys = [key for key in (*METRICS, *POSES) if key in measured]
    heads = ["variant", "weights", *(key.replace("_", " ") for key in keys), "images/s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, result in results.items():
        if "diverged" in result:
            lines.append(f"| {name} | diverged |" + " |" * len(keys) + " |")
            continue
        for weights in ("averaged", "last"):
            values = [f"{result[weights][key]:.3g}" for key in keys]
            rate = f"{result['images_per_second']:.0f}" if weights == "averaged" else ""
            lines.append(f"| {name} | {weights} | {' | '.join(values)} | {rate} |")
    images = options.steps * options.batch_size
    return f"{images:,} images of `{options.data}` at {options.image_size}², seed {options.seed}:\n\n" + "\n".join(
        [*lines, ""]
    )


@command
def main() -> None:
    print(ablate(tyro.cli(Options, description=__doc__)).read_text(), end="")


if __name__ == "__main__":
    main()
