"""Commands in processes of their own, and tiny inputs for them: what `faults.py` breaks."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import torch
from PIL import Image

from autolink import cli, load, train
from autolink.commands import calibrate, convert, detect, edit, evaluate, figures
from autolink.data.synthetic import synthetic_clip
from autolink.errors import command
from autolink.model import AutoLink, AutoLinkConfig
from autolink.video import write_video
from autolink_apps.gan import ConditionalGAN, ConditionalGANConfig, animate, mix, project
from autolink_apps.gan import train as gan_train
from autolink_apps.pose_transfer import PoseTransfer, PoseTransferConfig, adapt
from autolink_apps.pose_transfer import evaluate as transfer_evaluate
from autolink_apps.pose_transfer import train as transfer_train

MAINS: dict[str, Callable[[], object]] = {
    "autolink": cli.main,
    "autolink-sample": cli.sample,
    "autolink-transfer": cli.transfer,
    "gan/train": gan_train.main,
    "pose_transfer/train": transfer_train.main,
    "pose_transfer/adapt": adapt.main,
    "pose_transfer/evaluate": transfer_evaluate.main,
    "load()": command(lambda: load(sys.argv[1], device="cpu")),
    "inputs": lambda: make_inputs(Path()),
}
# Which commands load when they are called:
MODULES = (detect, train, evaluate, calibrate, edit, convert, figures, animate, mix, project)
MOST_MEGABYTES, MOST_SECONDS = 2000, 120
EVERY, POINT = 3, "out/checkpoint.safetensors"  # steps between checkpoints
VIDEOS = {".mp4", ".webm", ".ts", ".gif", ".webp", ".apng"}
TINY = AutoLinkConfig(keypoints=4, thickness=5e-3, image_size=32, width=0.125)
TRAINING = (
    "--batch-size 4 --workers 0 --mixed-precision no --width 0.125 --image-size 32 --perceptual pyramid --log-every 1 "
    f"--sample-every 6 --save-every {EVERY}"
)
MADE = """\
autolink detect --model autolink.safetensors --output found one.mp4
autolink calibrate --model autolink.safetensors --data photos --output map.safetensors
autolink-sample project --model gan.safetensors --image a.png --output looks.png --steps 2 --perceptual pyramid
autolink-transfer --model transfer.safetensors --src a.png --driver one.mp4 --save-motion motion.safetensors
autolink train {training} --data photos --steps 2 --output run"""
"""What makes the inputs that commands write."""
_LONG, _ONE = (f"{{training}} --steps {steps} --output out" for steps in (24, 1))
_MOVED = "autolink-transfer --device cpu --preview off --model {transfer}"
PROGRAMS = f"""\
learner | autolink train {_LONG} --data {{photos}} --keypoints 4 | {POINT}
GAN | gan/train {_LONG} --data {{photos}} --autolink {{autolink}} --metric-every 0 | {POINT}
pose transfer | pose_transfer/train {_LONG} --data {{clips}} --autolink {{autolink}} | {POINT}
adaptation | pose_transfer/adapt --model {{transfer}} --src {{one}} --steps 24 --output out --batch-size 4 \
--perceptual pyramid --device cpu | {POINT}
detect | autolink detect --model {{autolink}} --output out --batch-size 4 {{one}} |
transfer to a folder | {_MOVED} --batch-size 4 --src {{a}} --driver {{one}} --output out/frames | out
transfer to a video | {_MOVED} --batch-size 4 --src {{a}} --driver {{one}} --output out/t.mp4 | out
sample | autolink-sample --model {{gan}} --output out --device cpu |"""
"""Programs that are killed and find the disk full: name, words, and what there must be for them to take --resume."""
_MOVED += " --max-frames 4 --output t.mp4"
_LOOKED = "autolink-sample --device cpu --output s --columns 1 --count 2"
_PROJECT = "autolink-sample project --image {a} --steps 1 --device cpu --perceptual pyramid"
_DETECT = "autolink detect --output d --device cpu"
_EVALUATE = "pose_transfer/evaluate --perceptual pyramid --max-frames 4 --device cpu"
ENTRANCES = f"""\
picture moving | detect | {_DETECT} --model {{autolink}} {{file}}
picture moving | --src | {_MOVED} --src {{file}} --driver {{one}}
picture moving tensors table | --driver | {_MOVED} --src {{a}} --driver {{file}}
picture moving table | sample --pose | {_LOOKED} --model {{gan}} --pose {{file}}
picture moving | edit | autolink edit --model {{autolink}} --image {{file}} --move 1:+0.1,0
picture moving | project | {_PROJECT.replace("{a}", "{file}")} --model {{gan}}
picture moving table | project --pose | {_PROJECT} --model {{gan}} --pose {{file}}
picture moving | train | autolink train {_ONE} --data {{with_file}}
picture moving | evaluate | autolink evaluate --model {{autolink}} --data {{with_file}}
picture moving | calibrate | autolink calibrate --model {{autolink}} --data {{with_file}} --output c.safetensors
picture moving | figures | autolink figures --model {{autolink}} --data {{with_file}} --output f
picture moving | GAN train | gan/train {_ONE} --data {{with_file}} --autolink {{autolink}} --metric-every 0
moving | transfer train | pose_transfer/train {_ONE} --data {{clips_with_file}} --autolink {{autolink}}
moving | transfer evaluate | {_EVALUATE} --model {{transfer}} --data {{clips_with_file}}
moving | adapt | pose_transfer/adapt --model {{transfer}} --src {{file}} --steps 1 --perceptual pyramid --device cpu
moving | interpolate | autolink-sample interpolate --vary pose --model {{gan}} --pose {{file}} --output i.mp4
tensors | info | autolink info {{file}}
tensors | load | load() {{file}}
tensors | convert | autolink convert {{file}} --output o.safetensors
tensors | detect --model | {_DETECT} --model {{file}} {{a}}
tensors | detect --calibration | {_DETECT} --model {{autolink}} --calibration {{file}} {{a}}
tensors | sample --model | {_LOOKED} --model {{file}}
tensors | sample --appearance | {_LOOKED} --model {{gan}} --appearance {{file}}
tensors | mix --appearance | autolink-sample mix --model {{gan}} --appearance {{file}} --output m.png --device cpu
tensors | project --model | {_PROJECT} --model {{file}}
tensors | transfer --model | {_MOVED.replace("{transfer}", "{file}")} --src {{a}} --driver {{one}}
tensors | transfer evaluate | {_EVALUATE} --model {{file}} --data {{clips}}
tensors | evaluate | autolink evaluate --model {{file}} --data {{photos}}
tensors | train --start-from | autolink train {_ONE} --data {{photos}} --start-from {{file}}
tensors | GAN train --start-from | gan/train {_ONE} --metric-every 0 --data {{photos}} --autolink {{autolink}} \
--start-from {{file}}
tensors | GAN train --autolink | gan/train {_ONE} --metric-every 0 --data {{photos}} --autolink {{file}}
tensors | transfer train --start-from | pose_transfer/train {_ONE} --data {{clips}} --autolink {{autolink}} \
--start-from {{file}}
tensors | adapt --model | pose_transfer/adapt --model {{file}} --src {{one}} --steps 1 --perceptual pyramid --device cpu
table | calibrate | autolink calibrate --model {{autolink}} --data {{labelled}} --output c.safetensors
table | evaluate | autolink evaluate --model {{autolink}} --data {{labelled}}
table | train | autolink train {_ONE} --data {{labelled}}
run | train --resume | autolink train {{training}} --data {{photos}} --steps 3 --output {{again}} --resume
run | figures --runs | autolink figures --runs {{again}} --output f
run | evaluate a run | autolink evaluate --model {{again}} --data {{photos}}"""
"""Where damaged files go in: kinds of files, name, words."""


LASTING = """\
detect | 2 | autolink detect --output d --device cpu --model {autolink} {long}
transfer | 0.25 | autolink transfer --output t.mp4 --model {transfer} --src {a} --driver {long}"""
"""Programs that are watched: name, and how long the video is, in times of what detection gets through; detection then
has no end, and a transfer looks at all of its driver and then paints as many frames."""


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


def make_inputs(folder: Path) -> None:
    """Make the inputs of all commands."""
    torch.manual_seed(0)
    clips = [synthetic_clip(seed, 40, 48)[0].permute(0, 2, 3, 1).numpy() for seed in range(2)]
    for name in ("one.mp4", "two.webm", "four.gif", "five.webp", "six.apng"):
        write_video(folder / name, iter(clips[len(name) % 2][:, 4:44]), 25)
    repeated(folder / "one.mp4", folder / "three.ts", 1)
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
    network = PoseTransfer(PoseTransferConfig(32, 0.125, "warped", TINY)).eval()
    network.save_pretrained(folder / "transfer.safetensors", {"data": "none"})
    for line in MADE.format(training=TRAINING).splitlines():
        outcome = run(line.split(), folder)
        assert not outcome.status, outcome.said
    for file in ("found/keypoints.csv", "found/keypoints.npz", "photos/landmarks.csv"):
        shutil.copy(folder / file, folder)
    for file in ("config.json", "log.jsonl", "checkpoint.safetensors"):
        shutil.copy(folder / "run" / file, folder)


def repeated(clip: Path, target: Path, times: int) -> None:
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


def spelled(line: str, made: dict[str, Path], **others: Path) -> list[str]:
    """The words of a command; `{photos}` and the like in them is a file of that name without its suffix."""
    known = {path.stem: path for path in made.values()} | others
    return [word.format_map(known) for word in line.replace("{training}", TRAINING).split()]


SEEDS = {
    "picture": ["a.png", "b.jpg", "c.tif", "d.bmp", "e.webp", "f.avif"],
    "moving": ["one.mp4", "two.webm", "three.ts", "four.gif", "five.webp", "six.apng"],
    "tensors": [f"{n}.safetensors" for n in ("autolink", "gan", "transfer", "map", "looks", "motion", "checkpoint")],
    "table": ["landmarks.csv", "keypoints.csv", "keypoints.npz", "config.json", "log.jsonl"],
}
