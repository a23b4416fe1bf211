"""What a file is, by its content, and which files a folder holds.

Every entrance asks here. A name says what a file is meant to be, its first bytes what it is, and they are believed
first: a video called `.jpg` is a video, a picture of a telephone called `.jpg` may be HEIC. Where they say nothing (an
empty file, a text), the suffix does, so that whoever reads such a file can name it and say what is wrong with it.

Asking costs one read of 4 KiB: 25 µs a file on a local disk, beside 12 for listing it, and 170 for a look at its header
and end, which every picture of a data set gets.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from PIL import Image

from autolink.errors import UserError

logger = logging.getLogger(__name__)

Kind = Literal["still", "animation", "video", "other"]
STILLS: tuple[Kind, ...] = ("still",)
MOVING: tuple[Kind, ...] = ("animation", "video")
MEDIA: tuple[Kind, ...] = STILLS + MOVING

_WORDS = {"still": "pictures", "animation": "animations", "video": "videos"}
_HEAD = 4096
_PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL")  # Pillow's names
_PLUGINS = {"HEIF": ("pillow_heif", "pillow-heif"), "JXL": ("pillow_jxl", "pillow-jxl-plugin")}
_SUFFIXES: dict[str, Kind] = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"), "still"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".jxl"), "still"),
    **dict.fromkeys((".gif", ".apng"), "animation"),
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".m2ts"), "video"),
    **dict.fromkeys((".wmv", ".asf", ".flv", ".3gp", ".ogv", ".mxf"), "video"),  # not .ts, which is a program, too
}
_UNFINISHED = frozenset({".part", ".partial", ".crdownload", ".download", ".completing", ".tmp"})
_WRITTEN = (  # what is in folders that commands write
    ({"config.json", "log.jsonl"}, "a training run"),
    ({"config.json", ".lock"}, "a training run"),  # that has just begun
    ({"sweep.json"}, "a sweep"),
    ({"graph.json", "edges.png"}, "drawn by autolink figures"),
    ({"neighbours.json", "neighbours.png"}, "drawn by autolink-sample neighbours"),
    ({"report.json", "tables.md"}, "an evaluation of pose transfer"),
)
_TABLES = {"keypoints.csv", "keypoints.npz", "coordinates.npz", "deeplabcut"}  # beside overlays of detect
_OF_THE_SYSTEM = frozenset({"thumbs.db", "desktop.ini", "__macosx"})

# What the boxes of ISO files call their contents; all other brands are videos.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P ", b"F4A "), "sound"),
    b"crx ": "camera raw",
}
_MAGIC = (  # where it begins, its bytes, and what it is: as Pillow calls a picture, ffmpeg a video
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"CR\x02", "camera raw"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"II+\x00", "TIFF"),
    (0, b"MM\x00+", "TIFF"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JXL"),
    (0, b"\xff\x0a", "JXL"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x00\x00\x01\xb3", "mpegvideo"),
    (0, b"\x00\x00\x00\x01\x67", "h264"),
    (0, b"\x00\x00\x00\x01\x09", "h264"),
    (0, b"\x00\x00\x00\x01\x40\x01", "hevc"),
    (0, b"DKIF", "ivf"),
    (0, b"YUV4MPEG2", "yuv4mpegpipe"),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "mxf"),
    (0, b".RMF", "rm"),
    (0, b"ID3", "sound"),
    (0, b"fLaC", "sound"),
    (0, b"#EXTM3U", "playlist"),
    (0, b"ffconcat", "playlist"),
    (0, b"[playlist]", "playlist"),
    (0, b"v=0\n", "playlist"),  # SDP
    (0, b"v=0\r\n", "playlist"),
)
_UNKNOWN = ("", "text", "empty")  # names of what is only meant to be something, by its suffix
_OTHERS = frozenset({"camera raw", "sound", "playlist"})
_PLAYLIST_TAGS = (b"<MPD", b"<AssetMap", b"<CompositionPlaylist", b"<asx", b"<ASX", b"<smil", b"#EXTINF")


class What(NamedTuple):
    """What a file is."""

    kind: Kind
    """still: one picture; animation: a picture of several frames; video; or none of them."""
    name: str
    """Of a picture, its format as Pillow calls it; of a video, as ffmpeg does; else what it is in a word or two."""
    advice: str = ""
    """What would make it readable, if something would."""

    @property
    def moves(self) -> bool:
        """Whether it has frames one after the other in time."""
        return self.kind in MOVING

    @property
    def in_words(self) -> str:
        """For messages, after "it is": "a JPEG picture", "a mov video", "HEIF, so install pillow-heif"."""
        kinds = {"still": "a {} picture", "animation": "a {} animation", "video": "a {} video"}
        if self.name in _UNKNOWN:
            return self.name or "of an unknown kind"
        return kinds.get(self.kind, "{}").format(self.name) + (f", so {self.advice}" if self.advice else "")


def what_is(path: Path | str) -> What:
    """What a file is, by its content.

    Raises:
        UserError: no such file, a folder, a pipe, or one that must not be read.
    """
    path = require_file(path)
    try:
        return _by_content(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a file that can be read") from error


def require_file(path: Path | str) -> Path:
    """The path itself, if a file is there that can be read as often as one likes.

    Raises:
        UserError: no such file, a folder or a pipe.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a file that can be read") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: a folder; expected a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: a pipe or device, which cannot be read twice; write it to a file first")
    return path


def what_of(file: BinaryIO, path: Path | str) -> What:
    """What an open file is whose name is `path`; see `what_is`."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD)
    name = _name(head, size)
    if name in _PICTURES:
        return _picture(file, name, head)
    if name is None:
        is_text = b"\0" not in head and not set(head) & set(range(1, 9))
        about = ("text" if is_text else "") if head else "empty"
        return What(kind_by_name(path), about)
    return What("other" if name in _OTHERS else "video", name)


def kind_by_name(path: Path | str) -> Kind:
    """What a file is meant to be by its suffix."""
    return _SUFFIXES.get(os.path.splitext(path)[1].lower(), "other")


def picture_formats() -> tuple[str, ...]:
    """The formats of pictures that are read here, for `formats` of `PIL.Image.open`.

    Pillow knows others; some of them start programs (PostScript), or take any file for theirs.
    """
    return tuple(name for name in _PICTURES if _opens(name))


def list_files(
    root: Path, folder: Path, kinds: tuple[Kind, ...], nested: bool = True, output: Path | None = None
) -> list[str]:
    """Files of a folder that are of one of the kinds; what is left out is named once a process, with its number.

    Args:
        root: what the paths start from.
        folder: the folder.
        kinds: `STILLS`, `MOVING` or `MEDIA`.
        nested: its sub-folders as well.
        output: a folder into which the present command writes; what lies in it is left out.

    Returns:
        Sorted paths relative to `root`, with forward slashes.
    """
    found: list[str] = []
    left_out: Counter[tuple[str, What]] = Counter()
    for path in walk(folder, nested, output):
        what = _listed(path)
        if what.kind in kinds:
            found.append(path.relative_to(root).as_posix())
        elif path.suffix.lower() != ".csv":  # tables of labels and times have their own readers
            left_out[path.suffix.lower() or path.name, what] += 1
    if left_out and found:  # of a folder without any, its reader says more
        _name_left_out(folder, kinds, left_out)
    return sorted(found)


def list_named(root: Path, folder: Path, suffix: str) -> list[str]:
    """As `list_files`, all files with a suffix: for layouts that a data set's owners fixed."""
    return sorted(path.relative_to(root).as_posix() for path in walk(folder) if path.suffix.lower() == suffix)


def holds(folder: Path, kinds: tuple[Kind, ...], nested: bool = True) -> bool:
    """Whether a folder has a file of one of the kinds, see `list_files`."""
    return any(_listed(path).kind in kinds for path in walk(folder, nested))


def walk(folder: Path, nested: bool = True, output: Path | None = None) -> Iterator[Path]:
    """Files of a folder and its sub-folders; follows links, but not in circles, and leaves out what is hidden.

    What commands wrote below it is left out as well: folders that are known by their files as such, and what lies in
    `output`, into which the present command writes.
    """
    seen = set() if output is None else {os.path.realpath(output)} - {os.path.realpath(folder)}
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        written = next((what for files, what in _WRITTEN if files <= set(names)), None)
        if written and here != os.fspath(folder):
            _name_written(real, written)
            folders.clear()
            continue
        if "overlays" in folders and _TABLES & {*names, *folders}:
            _name_written(os.path.join(real, "overlays"), "drawn by autolink detect")
            folders.remove("overlays")
        folders[:] = sorted(name for name in folders if not _hidden(name)) if nested else []
        yield from (Path(here, name) for name in sorted(names) if not _hidden(name))


def no_media(folder: Path, kinds: tuple[Kind, ...], nested: bool = True) -> UserError:
    """What to tell the user of a folder in which `list_files` finds nothing."""
    path = next(walk(folder, nested), None)
    expected = _wanted(kinds)
    if path is None:
        return UserError(f"{folder}: is empty; expected {expected}")
    what = _listed(path)
    return UserError(f"{folder}: holds no {expected}; {path.name}, for instance, is {what.in_words}")


def _wanted(kinds: tuple[Kind, ...]) -> str:
    return " or ".join(_WORDS[kind] for kind in ("still", "video") if kind in kinds)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def _listed(path: Path) -> What:
    """What a file in a folder is; nothing is raised."""
    if path.suffix.lower() in _UNFINISHED:
        return What("other", "unfinished")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return What("other", "pipe or device")
        return _by_content(path)
    except OSError:  # whoever reads it says why
        return What(kind_by_name(path), "")


def _by_content(path: Path) -> What:
    with open(path, "rb", buffering=0) as file:
        return what_of(file, path)


def _picture(file: BinaryIO, name: str, head: bytes) -> What:
    if not _opens(name):
        return What("other", name, f"install {_PLUGINS[name][1] if name in _PLUGINS else 'a newer Pillow'}")
    moves = (
        (name == "GIF" and _several_frames(file))
        or (name == "PNG" and _frames_of_png(file, head) > 1)
        or (name == "WEBP" and head[12:16] == b"VP8X" and any(byte & 2 for byte in head[20:21]))
        or (name == "AVIF" and head[8:12] == b"avis")
    )
    return What("animation" if moves else "still", name)


def _name(head: bytes, size: int) -> str | None:
    """What a file is that begins so and has so many bytes, in words of `_MAGIC`; None if its beginning does not say."""
    known = next((name for start, magic, name in _MAGIC if head.startswith(magic, start)), None)
    if known == "TIFF":
        return "camera raw" if _is_camera_raw(head) else known
    if known is not None:
        return known
    if head[4:8] == b"ftyp":
        brand, others = head[8:12], head[16 : int.from_bytes(head[:4], "big")]
        return "AVIF" if brand == b"mif1" and b"avif" in others else _BRANDS.get(brand, "mov")
    if head[4:8] in (b"moov", b"mdat", b"wide", b"pnot", b"free", b"skip"):  # QuickTime without a brand
        return "mov" if int.from_bytes(head[:4], "big") <= size else None
    if head[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "avi", b"WAVE": "sound"}.get(head[8:12])
    if head[:4] == b"OggS":
        return "ogg" if any(codec in head for codec in (b"theora", b"OVP80", b"BBCD")) else "sound"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if re.match(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s", head):
        return "PPM"
    if any(head[at : at + 377 : 188] == b"\x47\x47\x47" for at in (0, 4)):  # 4: with a time before each packet
        return "mpegts"
    return "playlist" if any(tag in head for tag in _PLAYLIST_TAGS) else None


def _several_frames(file: BinaryIO) -> bool:
    file.seek(0)
    damage = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
    with suppress(*damage), Image.open(file, formats=("GIF",)) as image:
        return image.is_animated
    return True  # damaged: read as what it is meant to be


def _frames_of_png(file: BinaryIO, head: bytes) -> int:
    """How many frames an `acTL` chunk before the pixels announces; 1 without."""
    position, piece = 8, head[8:24]
    while len(piece) >= 12 and piece[4:8] != b"IDAT":
        if piece[4:8] == b"acTL":
            return int.from_bytes(piece[8:12], "big")
        position += 12 + int.from_bytes(piece[:4], "big")
        piece = head[position : position + 12]
        if len(piece) < 12:  # behind a long profile or note
            file.seek(position)
            piece = file.read(12)
    return 1


def _is_camera_raw(head: bytes) -> bool:
    """Whether a TIFF is a raw file of a camera, whose first picture is a small preview: DNG, NEF, ARW and others."""
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    at = int.from_bytes(head[4:8], order)
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(head[at : at + 2], order), 12):
        tag, value = (int.from_bytes(head[start : start + 2], order) for start in (entry, entry + 8))
        if tag == 50706 or (tag == 254 and value & 1):  # the version of DNG; a reduced picture
            return True
    return False


@cache
def _opens(name: str) -> bool:
    """Whether Pillow reads a format, with a plugin if that is installed."""
    Image.preinit()
    if name not in Image.OPEN:
        Image.init()
    if name not in Image.OPEN and name in _PLUGINS:
        with suppress(ImportError):
            plugin = importlib.import_module(_PLUGINS[name][0])
            if name == "HEIF":
                plugin.register_heif_opener()
    return name in Image.OPEN


@cache  # a folder is walked several times
def _name_written(folder: str, what: str) -> None:
    logger.warning("%s: left out, since it is %s", folder, what)


_named: set[tuple[Path, tuple[Kind, ...]]] = set()


def _name_left_out(folder: Path, kinds: tuple[Kind, ...], left_out: Counter[tuple[str, What]]) -> None:
    key = folder.resolve(), kinds
    if key in _named:
        return
    _named.add(key)
    listed = []
    for (suffix, what), count in sorted(left_out.items()):
        words = [_WORDS.get(what.kind, what.name if what.name.lower() not in suffix else ""), what.advice]
        about = ": ".join(filter(None, words))
        listed.append(f"{count} {suffix}" + (f" ({about})" if about else ""))
    total, wanted = left_out.total(), _wanted(kinds)
    files = "1 file that is" if total == 1 else f"{total} files that are"
    logger.warning("%s: left out %s no %s: %s", folder, files, wanted, ", ".join(listed))
