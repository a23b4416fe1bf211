"""What is lost when a program is killed, the disk fills up, files are damaged, or it runs for hours: four campaigns.

    python benchmarks/faults.py kill full fuzz memory --minutes 60

prints a table of each. Commands run in processes forked from this one, which has loaded everything, so that a fault
falls into the work and not into the start. Models are tiny and untrained, data drawn; `full` mounts a small tmpfs,
which takes the rights of root.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # threads of a pool do not survive a fork

import torch
import tyro
from _commands import (
    ENTRANCES,
    EVERY,
    LASTING,
    MOST_SECONDS,
    PROGRAMS,
    SEEDS,
    VIDEOS,
    repeated,
    run,
    spelled,
)
from _measure import print_table
from PIL import Image

from autolink.errors import command
from autolink.outputs import PARTS
from autolink.ranges import Checked, Count, Positive, Seed, Whole
from autolink.runs import read_log
from autolink.video import open_frames
from autolink.weights import read_metadata, read_tensors
from autolink_apps.pose_transfer import adapt


@dataclass
class Options(Checked):
    campaigns: tyro.conf.Positional[tuple[Literal["kill", "full", "fuzz", "memory"], ...]] = ("fuzz", "kill", "full")
    programs: tuple[str, ...] = ()  # those whose names contain one of these words
    kills: Whole = 20  # of each program
    files: Count = 300  # that are damaged
    entrances: Count = 20  # that each of them goes through, at most: chosen at random of those for its kind
    minutes: Positive = 60  # of the programs of `memory`
    pace: Positive = (
        150  # frames that detect gets through in a second here, by which the videos of `memory` are as long
    )
    seed: Seed = 0
    folder: Path | None = None  # for what is made, which is then kept
    verbose: bool = False  # print what fuzzed commands said


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
                yield f"{frame.time} {frame.image.shape}".encode()  # an encoder that began anew has other bits
    elif file.name == "config.json":
        yield json.dumps({**json.loads(file.read_text()), "resume": None}).encode()
    else:
        yield file.read_bytes()


def differing(one: dict[str, str], other: dict[str, str]) -> str:
    """Names of results that are not the same in both, a few."""
    return ", ".join(sorted(name for name in {*one, *other} if one.get(name) != other.get(name))[:4])


def in_words(faults: Counter[str]) -> str:
    """How often there was what; what has no name is no fault."""
    return "; ".join(f"{count} × {what}" for what, count in (+faults).items() if what) or "none"


class Program(NamedTuple):
    """A command that writes `out` in its working directory."""

    name: str
    words: list[str]
    resumes: str  # with --resume, once this is there; "" if there is no such option


def programs(made: dict[str, Path], wanted: Sequence[str] = ()) -> list[Program]:
    """The commands that are killed and that find the disk full."""
    known = [Program(*map(str.strip, line.split("|"))) for line in PROGRAMS.splitlines()]
    known = [program._replace(words=spelled(program.words, made)) for program in known]
    return [program for program in known if not wanted or any(word in program.name for word in wanted)]


def again(program: Program, where: Path) -> list[str]:
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
                if different := differing(expected, results(where)):
                    faults[f"other results: {different}"] += 1
            if kills >= options.kills:
                break
            if outcome.status or program.resumes:
                number += 1
                where = folder / program.name / f"broken {number}"
        yield [program.name, kills, ends, f"{lost} steps" if logged(where)[1] else "—", in_words(faults)]


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
                different = differing(expected, results(disk))
                faults[f"with room again, status {outcome.status}: {different}"] += bool(different)
                if options.verbose:
                    print(f"{program.name} {share}: {outcome}", file=sys.stderr)
            finally:
                subprocess.run(["umount", disk], check=True)
        else:
            yield [program.name, f"{need} kB", in_words(lines), in_words(faults)]
        if expected_run.status:
            yield [program.name, "fails with room", "", expected_run.said[-300:]]


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


def entrances(file: Path, where: Path, seed: str, kind: str, made: dict[str, Path]) -> list[tuple[str, list[str]]]:
    """Name and words of every command that such a file is given to."""
    photos, labelled, clips, again = (where / name for name in ("photos", "labelled", "clips", "again"))
    for copy, original in ((photos, "photos"), (labelled, "photos"), (clips, "clips"), (again, "run")):
        shutil.copytree(made[original], copy)
    shutil.copy(file, photos / f"photob{file.suffix}")
    shutil.copy(file, labelled / "landmarks.csv")
    (clips / "p2").mkdir()
    shutil.copy(file, clips / f"p2/c{file.suffix}")
    shutil.copy(file, again / seed)
    copies = {"file": file, "with_file": photos, "labelled": labelled, "clips_with_file": clips, "again": again}
    of_run = ["run"] if seed in ("checkpoint.safetensors", "config.json", "log.jsonl") else []
    known = []
    for line in ENTRANCES.splitlines():
        kinds, name, command_line = map(str.strip, line.split("|"))
        if {kind, *of_run} & set(kinds.split()):
            known.append((name, spelled(command_line, made, **copies)))
    return known


def fuzz(folder: Path, made: dict[str, Path], options: Options) -> Iterator[list[object]]:
    """Damaged files through all that reads them."""
    chance = random.Random(options.seed)
    kinds = {name: kind for kind, names in SEEDS.items() for name in names}
    tried, good, worst, faults = Counter(), Counter(), Counter(), defaultdict(Counter)
    where = folder / "fuzz"
    for number in range(options.files):
        kind = chance.choice(list(SEEDS))
        seed = chance.choice(SEEDS[kind])
        content, how = damaged(made[seed].read_bytes(), chance)
        suffix = Path(seed).suffix if how != "wrong suffix" else Path(chance.choice(list(kinds))).suffix
        where.mkdir()
        file = where / f"x{number}{suffix}"
        file.write_bytes(content)
        known = entrances(file, where, seed, kind, made)
        for name, words in chance.sample(known, min(options.entrances, len(known))):
            outcome = run(words, where / name, MOST_SECONDS)
            key = (kind, name)
            tried[key] += 1
            good[key] += not outcome.status
            worst[kind] = max(worst[kind], int(outcome.megabytes))
            if fault := outcome.fault():
                faults[key][fault] += 1
                if options.verbose or options.folder:
                    print(f"--- {fault}: {name}, {seed} {how}, number {number}\n{outcome.said}", file=sys.stderr)
                    shutil.copy(file, folder / f"{fault.replace(' ', '-')}-{name.replace(' ', '')}-{file.name}")
        shutil.rmtree(where)
    for (kind, name), count in sorted(tried.items()):
        yield [kind, name, count, good[kind, name], worst[kind], in_words(faults[kind, name])]


def memory(folder: Path, made: dict[str, Path], options: Options) -> Iterator[list[object]]:
    """Resident memory of programs, side by side, at work on a video that is longer than they have time for."""
    where = folder / "memory"
    where.mkdir()
    children = {}
    for line in LASTING.splitlines():
        name, share, command_line = map(str.strip, line.split("|"))
        if not options.programs or any(word in name for word in options.programs):
            long = where / f"{name}.mp4"
            repeated(made["one.mp4"], long, times=int(float(share) * options.minutes * 60 * options.pace / 40))
            started = [sys.executable, "-m", *spelled(command_line, made, long=long)]
            children[name] = subprocess.Popen(started, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


TABLES: dict[str, tuple[Callable[..., Iterator[list[Any]]], list[str]]] = {
    "kill": (kill, ["program", "kills", "runs that ended", "most lost", "faults"]),
    "full": (full, ["program", "writes", "how it ended at five sizes", "faults"]),
    "fuzz": (fuzz, ["file", "entrance", "files", "of which usable", "MB at most", "faults"]),
    "memory": (memory, ["program", "minutes", *(f"most MB by {n}/12" for n in (1, 4, 8, 12)), "then"]),
}


@command
def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    Image.init()
    adapt.EVERY = EVERY
    os.environ["AUTOLINK_CACHE"] = str(Path(tempfile.gettempdir()) / "autolink-faults-cache")
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        outcome = run(["inputs"], folder / "inputs", math.inf)
        if outcome.status:
            sys.exit(f"the inputs could not be made: {outcome.said}")
        made = {file.name: file for file in (folder / "inputs").iterdir()}
        for name in options.campaigns:
            campaign, header = TABLES[name]
            print_table(header, campaign(folder, made, options))


if __name__ == "__main__":
    main()
