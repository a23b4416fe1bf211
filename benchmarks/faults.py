"""What is lost when a program is killed, the disk fills up, files are damaged, or it runs for hours: four campaigns.

    python benchmarks/faults.py kill full fuzz memory --minutes 60

prints a table of each. Commands run in processes forked from this one, which has loaded everything, so that a fault
falls into the work and not into the start. Models are tiny and untrained, data drawn; `full` mounts a small tmpfs,
which takes the rights of root.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # threads of a pool do not survive a fork

import av
import torch
import tyro
from _measure import print_table
from PIL import Image

from autolink import calibrate, cli, edit, evaluate, load, predictor, train
from autolink.data.synthetic import synthetic_clip
from autolink.errors import command
from autolink.model import AutoLink, AutoLinkConfig
from autolink.outputs import PARTS
from autolink.runs import read_log
from autolink.video import open_frames, write_video
from autolink.weights import read_metadata, read_tensors
from autolink_apps.gan import ConditionalGAN, ConditionalGANConfig, project, sample
from autolink_apps.gan import train as gan_train
from autolink_apps.pose_transfer import PoseTransfer, PoseTransferConfig, adapt, transfer
from autolink_apps.pose_transfer import train as transfer_train

MAINS: dict[str, Callable[[], object]] = {
    "autolink": cli.main,
    "autolink-sample": sample.main,
    "autolink-transfer": transfer.main,
    "gan/train": gan_train.main,
    "pose_transfer/train": transfer_train.main,
    "pose_transfer/adapt": adapt.main,
    "load()": command(lambda: load(sys.argv[1], device="cpu")),
}
MODULES = (predictor, train, evaluate, calibrate, edit, project)  # which commands load when they are called
MOST_MEGABYTES, MOST_SECONDS = 2000, 120
EVERY = 3  # steps between checkpoints
VIDEOS = {".mp4", ".webm", ".ts", ".gif", ".webp", ".apng"}
TINY = AutoLinkConfig(keypoints=4, thickness=5e-3, image_size=32, width=0.125)


@dataclass
class Options:
    campaigns: tyro.conf.Positional[tuple[Literal["kill", "full", "fuzz", "memory"], ...]] = ("fuzz", "kill", "full")
    programs: tuple[str, ...] = ()  # those whose names contain one of these words
    kills: int = 20  # of each program
    files: int = 300  # that are damaged
    entrances: int = 20  # that each of them goes through, at most: chosen at random of those for its kind
    minutes: float = 60  # of the programs of `memory`
    pace: float = 150  # frames that detect gets through in a second here, by which the videos of `memory` are as long
    seed: int = 0
    folder: Path | None = None  # for what is made, which is then kept
    verbose: bool = False  # print what fuzzed commands said


class Outcome(NamedTuple):
    """How a command ended."""

    status: int  # minus the signal's number, if one ended it
    said: str
    seconds: float
    megabytes: float

    def fault(self) -> str:
        """What is wrong with how it ended, in a word; a status of 2 with one line is as it should be."""
        if self.status == -signal.SIGKILL:
            return "no end"
        if self.status < 0:
            return f"signal {-self.status}"
        if "Traceback" in self.said:
            return "traceback"
        if self.megabytes > MOST_MEGABYTES:
            return "memory"
        if self.status and sum(line.startswith("error: ") for line in self.said.splitlines()) != 1:
            return "not one line"
        return ""


def run(words: Sequence[object], where: Path, kill_after: float = MOST_SECONDS) -> Outcome:
    """A command in a process of its own with this working directory, killed after so many seconds."""
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        began, child = time.perf_counter(), os.fork()
        if not child:
            _be(words, where, file.fileno())
        while not (ended := os.wait4(child, os.WNOHANG))[0]:
            if time.perf_counter() - began > kill_after:
                os.kill(child, signal.SIGKILL)
                ended = os.wait4(child, 0)
                break
            time.sleep(0.005)
        file.seek(0)
        code = os.waitstatus_to_exitcode(ended[1])
        return Outcome(code, file.read(), time.perf_counter() - began, ended[2].ru_maxrss / 1000)


def _be(words: Sequence[object], where: Path, output: int) -> None:
    status = 1
    try:
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(where)
        resource.setrlimit(resource.RLIMIT_AS, (16 * 10**9,) * 2)
        sys.argv = list(map(str, words))
        MAINS[sys.argv[0]]()
        status = 0
    except SystemExit as stopped:
        status = stopped.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def results(folder: Path) -> dict[str, str]:
    """A word for what is in each file that a command is asked for; unfinished ones, and what tells times, are not."""
    found = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith((*PARTS, ".lock"))):
        if "tfevents" not in file.name and not file.name.startswith("."):
            digest = hashlib.sha256()
            for piece in _pieces(file):
                digest.update(piece)
            found[str(file.relative_to(folder))] = digest.hexdigest()[:12]
    return found


def _pieces(file: Path) -> Iterator[bytes]:
    if file.suffix == ".safetensors":
        for name, tensor in sorted(read_tensors(file).items()):
            yield name.encode() + tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes()
    elif file.name == "log.jsonl":
        for line in read_log(file):
            yield json.dumps({key: line[key] for key in sorted(line) if "second" not in key}).encode()
    elif file.suffix in VIDEOS:
        with open_frames(file) as frames:
            for frame in frames:
                yield f"{frame.time} {frame.image.shape}".encode()  # x264 does not encode the same bits every time
    elif file.name == "config.json":
        yield json.dumps({**json.loads(file.read_text()), "resume": None}).encode()
    else:
        yield file.read_bytes()


class Program(NamedTuple):
    """A command that writes `out` in its working directory."""

    name: str
    words: list[object]
    resumes: str  # with --resume, once this is there; "" if there is no such option


def begin(folder: Path) -> dict[str, Path]:
    """The inputs of all commands, made in a process of its own."""
    child = os.fork()
    if not child:
        status = 1
        try:
            _make(folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        sys.exit("the inputs could not be made")
    return {file.name: file for file in folder.iterdir()}


def _make(folder: Path) -> None:
    torch.manual_seed(0)
    clips = [synthetic_clip(seed, 40, 48)[0].permute(0, 2, 3, 1).numpy() for seed in range(2)]
    for name in ("one.mp4", "two.webm", "four.gif", "five.webp", "six.apng"):
        write_video(folder / name, iter(clips[len(name) % 2][:, 4:44]), 25)
    with av.open(str(folder / "one.mp4")) as video, av.open(str(folder / "three.ts"), "w") as stream:
        copied = stream.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                stream.mux(packet)
    for k, clip in enumerate(clips):
        (folder / "clips" / f"p{k}").mkdir(parents=True)
        write_video(folder / f"clips/p{k}/c.mp4", iter(clip), 25)
    photos, rows = folder / "photos", ["file,width,height,x0,y0,x1,y1"]
    photos.mkdir()
    for k in range(16):
        Image.fromarray(clips[k % 2][k]).save(photos / f"photo{chr(97 + k)}.png")
        rows.append(f"photo{chr(97 + k)}.png,48,48,{k},{k + 5}.5,{40 - k},20")
    (photos / "landmarks.csv").write_text("\n".join(rows) + "\n")
    for name in ("a.png", "b.jpg", "c.tif", "d.bmp", "e.webp", "f.avif"):
        Image.fromarray(clips[0][5]).save(folder / name)
    autolink = AutoLink(TINY).eval()
    autolink.save_pretrained(folder / "autolink.safetensors", {"data": "none"})
    gan = ConditionalGAN(ConditionalGANConfig(image_size=32, width=0.125, poses=5, autolink=TINY))
    gan.poses.uniform_(-0.8, 0.8)
    gan.update_w_average()
    gan.eval().save_pretrained(folder / "gan.safetensors", {"data": "none"})
    PoseTransfer(PoseTransferConfig(32, 0.125, "warped", TINY)).eval().save_pretrained(
        folder / "transfer.safetensors", {"data": "none"}
    )
    extra = [
        "autolink detect --model autolink.safetensors --output found one.mp4",
        "autolink calibrate --model autolink.safetensors --data photos --output map.safetensors",
        "autolink-sample project --model gan.safetensors "
        "--image a.png --output looks.png --steps 2 --perceptual pyramid",
        "autolink-transfer --model transfer.safetensors --src a.png --driver one.mp4 --save-motion motion.safetensors",
        " ".join(map(str, [*_training("autolink", "train"), "--data photos --steps 2 --output run"])),
    ]
    for words in extra:
        outcome = run(words.split(), folder)
        if outcome.status:
            raise RuntimeError(f"{words}: {outcome.said}")
    for file in ("found/keypoints.csv", "found/keypoints.npz", "run/config.json", "run/log.jsonl"):
        shutil.copy(folder / file, folder)
    shutil.copy(folder / "run/checkpoint.safetensors", folder)


def _training(*name: str) -> list[object]:
    words = [*name, "--batch-size", 4, "--workers", 0, "--mixed-precision", "no", "--width", 0.125, "--image-size", 32]
    return [*words, "--perceptual", "pyramid", "--log-every", 1, "--sample-every", 6, "--save-every", EVERY]


def programs(made: dict[str, Path], wanted: Sequence[str] = ()) -> list[Program]:
    """The commands that are killed and that find the disk full."""
    models = {kind: made[f"{kind}.safetensors"] for kind in ("autolink", "gan", "transfer")}
    moved = ["autolink-transfer", "--model", models["transfer"], "--src", made["a.png"], "--driver", made["one.mp4"]]
    moved += ["--batch-size", 4, "--device", "cpu", "--preview", "off", "--output"]
    few = ["--steps", 24, "--batch-size", 4, "--perceptual", "pyramid", "--device", "cpu"]
    point, output = "out/checkpoint.safetensors", ["--output", "out"]

    def training(*name: str) -> list[object]:
        return [*_training(*name), "--steps", 24, *output]

    known = [
        Program("learner", [*training("autolink", "train"), "--data", made["photos"], "--keypoints", 4], point),
        Program(
            "GAN",
            [*training("gan/train"), "--data", made["photos"], "--autolink", models["autolink"], "--metric-every", 0],
            point,
        ),
        Program(
            "pose transfer",
            [*training("pose_transfer/train"), "--data", made["clips"], "--autolink", models["autolink"]],
            point,
        ),
        Program(
            "adaptation",
            [
                "pose_transfer/adapt",
                "--model",
                models["transfer"],
                "--src",
                made["one.mp4"],
                "--steps",
                24,
                *output,
                *few,
            ],
            point,
        ),
        Program(
            "detect",
            ["autolink", "detect", "--model", models["autolink"], *output, "--batch-size", 4, made["one.mp4"]],
            "",
        ),
        Program("transfer to a folder", [*moved, "out/frames"], "out"),
        Program("transfer to a video", [*moved, "out/moved.mp4"], "out"),
        Program("sample", ["autolink-sample", "--model", models["gan"], *output, "--device", "cpu"], ""),
    ]
    return [program for program in known if not wanted or any(word in program.name for word in wanted)]


def again(program: Program, where: Path) -> list[object]:
    """The command as its user types it then: with --resume if there is something to go on from."""
    return program.words + ["--resume"] * bool(program.resumes and (where / program.resumes).exists())


def logged(where: Path) -> tuple[int, int]:
    """Steps in the log and in the checkpoint of a training."""
    log, point = where / "out/log.jsonl", where / "out/checkpoint.safetensors"
    saved = json.loads(read_metadata(point)["run"])["step"] if point.exists() else 0
    return max((int(line.get("step", 0)) for line in read_log(log)), default=0) if log.exists() else 0, saved


def kill(folder: Path, made: dict[str, Path], options: Options) -> Iterator[list[object]]:
    """Each program killed at random moments and gone on with, over and over, beside an unbroken run of it."""
    chance = random.Random(options.seed)
    for program in programs(made, options.programs):
        whole = run(program.words, folder / program.name / "whole")
        if whole.status:
            yield [program.name, 0, 0, "", f"fails: {whole.said.strip()[-300:]}"]
            continue
        expected = results(folder / program.name / "whole")
        faults, kills, ends, lost, number = Counter(), 0, 0, 0, 0
        where = folder / program.name / "broken 0"
        while True:
            wait = chance.uniform(0, whole.seconds) if kills < options.kills else MOST_SECONDS
            outcome = run(again(program, where), where, wait)
            if outcome.status == -signal.SIGKILL:
                kills += 1
                steps, saved = logged(where)
                lost = max(lost, steps - saved)
                faults["more lost than since the last save"] += steps - saved > EVERY
                if not program.resumes and ends:  # what stood there before is the old or the new, whole, and both equal
                    faults["earlier output damaged"] += results(where) != expected
                continue
            if outcome.status:
                faults[f"cannot go on: {outcome.said.strip().splitlines()[-1]}"] += 1
            else:
                ends += 1
                found = results(where)
                different = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
                if different:
                    faults[f"other results: {', '.join(sorted(different)[:4])}"] += 1
            if kills >= options.kills:
                break
            if outcome.status or program.resumes:
                number += 1
                where = folder / program.name / f"broken {number}"
        faults = +faults
        said = "; ".join(f"{count} × {what}" for what, count in faults.items())
        yield [program.name, kills, ends, f"{lost} steps" if logged(where)[1] else "—", said or "none"]


def full(folder: Path, made: dict[str, Path], options: Options) -> Iterator[list[object]]:
    """Each program on a disk that fills up at five sizes, beside an earlier output; then there is room again."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    for program in programs(made, options.programs):
        where, faults, lines = folder / program.name / "room", Counter(), Counter()
        expected_run = run(program.words, where)
        expected = results(where)
        need = int(subprocess.run(["du", "-sk", where], capture_output=True, text=True).stdout.split()[0])
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={need * 3}k", "tmpfs", disk]).returncode:
                yield [program.name, "skipped: no tmpfs can be mounted here", "", ""]
                break
            try:
                before = {}
                if not program.resumes:  # an earlier output, which the same command would replace
                    run(program.words, disk)
                    before = results(disk)
                used = shutil.disk_usage(disk).used // 1024
                subprocess.run(["mount", "-o", f"remount,size={used + max(8, int(need * share))}k", disk], check=True)
                outcome = run(program.words, disk)
                faults[outcome.fault()] += 1
                lines["ended well" if not outcome.status else "one line"] += not outcome.fault()
                kept = results(disk)
                faults["earlier output damaged"] += any(kept.get(name) != word for name, word in before.items())
                left = {file.stem for file in disk.rglob("*") if file.name.endswith(PARTS)}
                faults["unfinished file left"] += any(Path(name).suffix not in {*VIDEOS, ".csv"} for name in left)
                subprocess.run(["mount", "-o", f"remount,size={need * 4}k", disk], check=True)
                if outcome.status:
                    outcome = run(again(program, disk), disk)
                found = results(disk)
                different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
                faults[f"with room again, status {outcome.status}: {', '.join(different[:4])}"] += bool(different)
                if options.verbose:
                    print(f"{program.name} {share}: {outcome}", file=sys.stderr)
            finally:
                subprocess.run(["umount", disk], check=True)
        else:
            del faults[""]
            said = "; ".join(f"{count} × {what}" for what, count in (+faults).items()) or "none"
            yield [program.name, f"{need} kB", ", ".join(f"{n} × {what}" for what, n in lines.items()), said]
        if expected_run.status:
            yield [program.name, "fails with room", "", expected_run.said[-300:]]


SEEDS = {
    "picture": ["a.png", "b.jpg", "c.tif", "d.bmp", "e.webp", "f.avif"],
    "moving": ["one.mp4", "two.webm", "three.ts", "four.gif", "five.webp", "six.apng"],
    "tensors": [f"{n}.safetensors" for n in ("autolink", "gan", "transfer", "map", "looks", "motion", "checkpoint")],
    "table": ["landmarks.csv", "keypoints.csv", "keypoints.npz", "config.json", "log.jsonl"],
}


def damaged(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Flipped bytes (half of the time near the beginning), a missing end, blocks swapped, zeros, or none."""
    how, data = chance.choice(["flipped", "cut", "swapped", "zeros", "wrong suffix"]), bytearray(content)
    size = len(data)
    reach = min(size, 512) if chance.random() < 0.5 else size
    if how == "flipped":
        for _ in range(chance.choice([1, 4, 32])):
            data[chance.randrange(reach)] = chance.randrange(256)
    elif how == "cut":
        del data[chance.randrange(reach) :]
    elif how == "swapped":
        block = max(1, size // 16)
        one, two = (chance.randrange(0, size - block + 1) for _ in range(2))
        data[one : one + block], data[two : two + block] = data[two : two + block], data[one : one + block]
    elif how == "zeros":
        at = chance.randrange(reach)
        data[at : at + size // 8] = bytes(len(data[at : at + size // 8]))
    return bytes(data), how


def entrances(file: Path, where: Path, seed: str, kind: str, made: dict[str, Path]) -> Iterator[tuple[str, list]]:
    """Name and words of every command that such a file is given to."""
    names = ("autolink", "gan", "transfer")
    autolink, gan, model = (made[f"{name}.safetensors"] for name in names)
    one, photo = made["one.mp4"], made["a.png"]
    moved = ["autolink-transfer", "--max-frames", 4, "--preview", "off", "--device", "cpu", "--output", "t.mp4"]
    looked = ["autolink-sample", "--device", "cpu", "--output", "s", "--columns", 1, "--count", 2]
    learnt = [*_training("autolink", "train"), "--steps", 1, "--output", "run"]
    detect = ["autolink", "detect", "--output", "d", "--device", "cpu"]
    if kind in ("picture", "moving"):
        yield "detect", [*detect, "--model", autolink, file]
        yield "--src", [*moved, "--model", model, "--src", file, "--driver", one]
        yield "--driver", [*moved, "--model", model, "--src", photo, "--driver", file]
        yield "sample --pose", [*looked, "--model", gan, "--pose", file]
        yield "edit", ["autolink", "edit", "--model", autolink, "--image", file, "--move", "1:+0.1,0"]
        words = ["autolink-sample", "project", "--model", gan, "--image", file, "--steps", 1, "--device", "cpu"]
        yield "project", [*words, "--perceptual", "pyramid"]
        folder = where / "data"
        shutil.copytree(made["photos"], folder)
        shutil.copy(file, folder / f"photob{file.suffix}")
        yield "train", [*learnt, "--data", folder]
        yield "evaluate", ["autolink", "evaluate", "--model", autolink, "--data", folder]
        yield "calibrate", ["autolink", "calibrate", "--model", autolink, "--data", folder, "--output", "c.safetensors"]
    if kind == "tensors":
        yield "info", ["autolink", "info", file]
        yield "load", ["load()", file]
        yield "detect --model", [*detect, "--model", file, photo]
        yield "detect --calibration", [*detect, "--model", autolink, "--calibration", file, photo]
        yield "sample --model", [*looked, "--model", file]
        yield "sample --appearance", [*looked, "--model", gan, "--appearance", file]
        yield "transfer --model", [*moved, "--model", file, "--src", photo, "--driver", one]
        yield "--driver", [*moved, "--model", model, "--src", photo, "--driver", file]
        yield "evaluate", ["autolink", "evaluate", "--model", file, "--data", made["photos"]]
        yield "train --start-from", [*learnt, "--data", made["photos"], "--start-from", file]
    if kind == "table":
        yield "sample --pose", [*looked, "--model", gan, "--pose", file]
        yield "--driver", [*moved, "--model", model, "--src", photo, "--driver", file]
        folder = where / "labelled"
        shutil.copytree(made["photos"], folder)
        shutil.copy(file, folder / "landmarks.csv")
        yield "calibrate", ["autolink", "calibrate", "--model", autolink, "--data", folder, "--output", "c.safetensors"]
        yield "evaluate", ["autolink", "evaluate", "--model", autolink, "--data", folder]
        yield "train", [*learnt, "--data", folder]
    if seed in ("checkpoint.safetensors", "config.json", "log.jsonl"):
        shutil.copytree(made["run"], where / "again")
        shutil.copy(file, where / "again" / seed)
        words = [*learnt[:-4], "--data", made["photos"], "--steps", 3, "--output", where / "again", "--resume"]
        yield "train --resume", words


def fuzz(folder: Path, made: dict[str, Path], options: Options) -> Iterator[list[object]]:
    """Damaged files through all that reads them."""
    chance = random.Random(options.seed)
    made = {**made, "landmarks.csv": made["photos"] / "landmarks.csv"}
    kinds = {name: kind for kind, names in SEEDS.items() for name in names}
    tried, good, faults, worst = Counter(), Counter(), Counter(), Counter()
    where = folder / "fuzz"
    for number in range(options.files):
        kind = chance.choice(list(SEEDS))
        seed = chance.choice(SEEDS[kind])
        content, how = damaged(made[seed].read_bytes(), chance)
        suffix = Path(seed).suffix if how != "wrong suffix" else Path(chance.choice(list(kinds))).suffix
        where.mkdir()
        file = where / f"x{number}{suffix}"
        file.write_bytes(content)
        known = list(entrances(file, where, seed, kind, made))
        for name, words in chance.sample(known, min(options.entrances, len(known))):
            outcome = run(words, where, MOST_SECONDS)
            key = (kind, name)
            tried[key] += 1
            good[key] += not outcome.status
            worst[kind, "MB"] = max(worst[kind, "MB"], int(outcome.megabytes))
            if fault := outcome.fault():
                faults[(*key, fault)] += 1
                if options.verbose or options.folder:
                    print(f"--- {fault}: {name}, {seed} {how}, number {number}\n{outcome.said}", file=sys.stderr)
                    shutil.copy(file, folder / f"{fault.replace(' ', '-')}-{name.replace(' ', '')}-{file.name}")
        shutil.rmtree(where)
    for (kind, name), count in sorted(tried.items()):
        said = "; ".join(f"{n} × {what}" for (*at, what), n in faults.items() if tuple(at) == (kind, name))
        yield [kind, name, count, good[kind, name], worst[kind, "MB"], said or "none"]


def memory(folder: Path, made: dict[str, Path], options: Options) -> Iterator[list[object]]:
    """Resident memory of programs, side by side, at work on a video that is longer than they have time for."""
    where = folder / "memory"
    where.mkdir()
    moved = ["autolink-transfer", "--model", made["transfer.safetensors"], "--src", made["a.png"], "--output", "t.mp4"]
    found = ["autolink", "detect", "--model", made["autolink.safetensors"], "--output", "d", "--device", "cpu"]
    # Detection has no end then; a transfer looks at all of its driver, and then paints as many frames.
    known = {"detect": (found, "", 2.0), "autolink-transfer": (moved, "--driver", 0.25)}
    children = {}
    for name, (words, option, share) in known.items():
        if not options.programs or any(word in name for word in options.programs):
            long = where / f"{name}.mp4"
            _repeated(made["one.mp4"], long, times=int(share * options.minutes * 60 * options.pace / 40))
            command_line = _spelled([*words, *filter(None, [option]), long])
            children[name] = subprocess.Popen(
                command_line, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in children}
    began = time.perf_counter()
    while (share := (time.perf_counter() - began) / 60 / options.minutes) < 1:
        time.sleep(2)
        for name, child in children.items():
            if child.poll() is None:
                lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
                seen[name] += [(share, int(line.split()[1]) / 1024) for line in lines if line.startswith("VmRSS")]
    for name, child in children.items():
        ended = child.poll()
        child.kill()
        child.wait()
        most = (max((size for at, size in seen[name] if at <= n / 12), default=0) for n in (1, 4, 8, 12))
        minutes = seen[name][-1][0] * options.minutes
        yield [name, f"{minutes:.1f}", *(f"{size:.0f}" for size in most), "at work" if ended is None else ended]


def _repeated(clip: Path, target: Path, times: int) -> None:
    """A video that shows a clip over and over; its frames are copied and not encoded again."""
    with av.open(str(clip)) as read, av.open(str(target), "w") as write:
        stream = read.streams.video[0]
        copied = write.add_stream_from_template(stream)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in read.demux(stream) if p.dts is not None]
        length = len(packets) * (packets[1][2] - packets[0][2])
        for number in range(times):
            for content, pts, dts, key in packets:
                packet = av.Packet(content)
                packet.pts, packet.dts = pts + number * length, dts + number * length
                packet.stream, packet.time_base, packet.is_keyframe = copied, stream.time_base, key
                write.mux(packet)


def _spelled(words: Sequence[object]) -> list[str]:
    """A command for a process that is not forked from here."""
    main = {"autolink": "autolink.cli", "autolink-transfer": "autolink_apps.pose_transfer.transfer"}[str(words[0])]
    return [sys.executable, "-c", f"import {main} as m; m.main()", *map(str, words[1:])]


TABLES: dict[str, tuple[Callable[..., Iterator[list[Any]]], list[str]]] = {
    "kill": (kill, ["program", "kills", "runs that ended", "most lost", "faults"]),
    "full": (full, ["program", "writes", "how it ended at five sizes", "faults"]),
    "fuzz": (fuzz, ["file", "entrance", "files", "of which usable", "MB at most", "faults"]),
    "memory": (memory, ["program", "minutes", *(f"most MB by {n}/12" for n in (1, 4, 8, 12)), "then"]),
}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    Image.init()
    adapt.EVERY = EVERY
    os.environ["AUTOLINK_CACHE"] = str(Path(tempfile.gettempdir()) / "autolink-faults-cache")
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        (folder / "inputs").mkdir(parents=True)
        made = begin(folder / "inputs")
        for name in options.campaigns:
            campaign, header = TABLES[name]
            print_table(header, campaign(folder, made, options))


if __name__ == "__main__":
    main()
