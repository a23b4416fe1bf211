"""From an image file of any kind to a square of RGB bytes.

Geometry: a box of the upright image, resized to `size` x `size` with antialiasing; by default its largest
centred square. That is "shorter side to `size`, then centre crop" without the rounding in between, so that
landmarks follow exactly.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
TRANSPARENT = (128, 128, 128)  # what shows through: mid-grey, the colour in which hidden cells are shown, too
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}  # they swap width and height
_TAIL = 4096

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels; pixel i spans [i, i + 1)."""


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB; transparency shows mid-grey, 16 bits are scaled to 8."""
    if image.mode.startswith("I"):  # 16 bits of grey; as "I" (32 bits) some files of 16 bits arrive
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (*TRANSPARENT, 255))
        image = Image.alpha_composite(below, image)
    return image.convert("RGB")


def cut_box(width: float, height: float, box: Box | None = None) -> Box:
    """What of an image is cut out: the part of a box that it shows, or its largest centred square.

    Raises:
        ValueError: the image shows nothing of the box.
    """
    if box is None:
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side
    left, top, right, bottom = (float(edge) for edge in box)
    cut = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        raise ValueError(f"nothing of it, {width} x {height}, is in the box ({left}, {top}, {right}, {bottom})")
    return cut


def square(image: Image.Image, size: int, box: Box | None = None) -> Image.Image:
    """A box of an RGB image, stretched to a square of side `size` and antialiased.

    Args:
        image: the image.
        size: side of the result in pixels.
        box: within the image; its largest centred square if not given.
    """
    box = cut_box(*image.size) if box is None else box
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def load_square(path: Path | str | BinaryIO, size: int, box: Box | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Reads an image file (its path, or open), turns it upright and cuts a box, by default its centred square.

    Returns:
        The (size, size, 3) uint8 square, and (width, height) of the upright image in the file.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the file cannot be read as an image.
    """
    with Image.open(path) as file:
        upright = _UPRIGHT.get(file.getexif().get(_ORIENTATION, 1))
        image: Image.Image = file
        if box is not None and upright is not None:  # the box is one of the upright image
            image, upright = to_rgb(file).transpose(upright), None
        width, height = image.size
        left, top, right, bottom = cut_box(width, height, box)
        # A JPEG can be decoded at a half, quarter or eighth of its size, much faster. At twice the size that
        # is needed or more, the antialiasing is left to `square`. The reduced image is rounded up to whole
        # pixels, so the box is found in the full one.
        enough = 2 * size / min(right - left, bottom - top)
        reduced = image.draft(None, (round(enough * width), round(enough * height)))
        scale = 1.0 if reduced is None else reduced[1][2] / width
        cut = square(to_rgb(image), size, (left * scale, top * scale, right * scale, bottom * scale))
    if upright is not None:  # the centred square is the same one, turned
        cut = cut.transpose(upright)
        if upright in _TURNS:
            width, height = height, width
    return np.array(cut), (width, height)  # a copy that owns its memory and may be written to


def why_unreadable(path: Path | str) -> str | None:
    """A cheap check: None if the file looks like an image we can read, else the reason in a few words.

    Reads the header and the last bytes. Only a file whose end does not look like the end of its format (most
    often since a download broke off) is decoded in full to find out.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F":
                return "floating-point pixels are not supported"
            if not _looks_whole(path, image.format):
                image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.UnidentifiedImageError):
            return "not an image, or of an unknown kind" if os.path.getsize(path) else "empty file"
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return None


def _looks_whole(path: Path | str, image_format: str | None) -> bool:
    """Whether a file ends as its format says; False, too, if the format does not say."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(max(0, size - _TAIL))
        tail = file.read().rstrip(b"\x00")[-64:]
    if image_format in ("JPEG", "MPO"):
        return b"\xff\xd9" in tail
    if image_format == "PNG":
        return b"IEND" in tail
    if image_format == "WEBP":
        return size >= 8 + int.from_bytes(head[4:8], "little")
    return False
