"""From an image file of any kind, or an image that Pillow holds, to upright RGB bytes: the one reader of pictures.

Every command, training and `AutoLink.detect` read through `upright_rgb`, so that a picture is the same to all of them:

- 16 bits of grey are scaled to 8. Floating-point and 32-bit pixels do not say what white is: it is the least of 1
  (of floats only), 255 and 65535 that holds all of a picture's pixels; a picture beyond that is refused.
- What is transparent shows mid-grey.
- The EXIF orientation is applied. Nothing else of EXIF is looked at, and what cannot be read of it is left aside.
- Colour profiles (ICC) are not applied, and CMYK is converted without one, as the data loaders of the field do.

A GIF, WebP, PNG or AVIF of several frames is an animation, which `autolink.video.open_frames` reads as a video. Where
one picture is wanted, and of a TIFF of several pages, the first is taken, and a warning says so.

Geometry of squares: a box of the upright image, resized to `size` x `size` with antialiasing; by default its largest
centred square. That is "shorter side to `size`, then centre crop" without the rounding in between, so that
landmarks follow exactly.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import imageio.v3 as iio
import numpy as np
from PIL import Image, UnidentifiedImageError

from autolink.errors import UserError
from autolink.files import picture_formats, require_file, what_is

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
_TOO_SHORT, _INSTEAD = Fraction(1, 100), Fraction(1, 10)  # seconds: what browsers show a frame that asks for less
_OVERSHOOT = 0.01  # share of white by which floats may pass black and white, as resampling leaves them
_TAIL = 4096

# Unless somebody else has a filter for them: damaged EXIF is no concern of who looks at the picture, damaged pixels are
# an error, and so is a picture of twice the size that Pillow begins to warn of.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin", append=True)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)

_told: set[str] = set()
logger = logging.getLogger(__name__)

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels; pixel i spans [i, i + 1)."""

# -- pixels -----------------------------------------------------------------------------------------


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB, turned as its EXIF says; see the module's text.

    Raises:
        ValueError: it has no pixels, or pixels that are not numbers or in no known range.
        OSError, SyntaxError: it was opened from a file that cannot be decoded.
    """
    if 0 in image.size:
        raise ValueError(f"it has no pixels, but a size of {image.width} x {image.height}")
    image.load()  # first, since some formats turn their images upright themselves when they are decoded
    turn = _turn(image)
    rgb = _rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # of damaged EXIF whatever the parser stumbles over; the pixels are there all the same
        return None


def _rgb(image: Image.Image) -> Image.Image:
    opacity = None
    if image.mode == "F" or image.mode.startswith("I"):  # one band of more than 8 bits
        values = np.asarray(image)
        key = image.info.get("transparency")
        if isinstance(key, int):
            opacity = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
        image = Image.fromarray(_eight_bits(values, image))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode != "RGBA":
            image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        opacity = image.getchannel("A")
    image = image.convert("RGB")
    if opacity is None:
        return image
    shown = Image.new("RGB", image.size, TRANSPARENT)
    shown.paste(image, mask=opacity)
    return shown


def _eight_bits(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """Grey (H, W) of 16 or 32 bits, or of floats, as uint8."""
    least, most = float(values.min()), float(values.max())
    whites = [1, 255, 65535] if image.mode == "F" else [255, 65535]
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):  # of these, "I" has 16 bits as well
        whites = [65535]
    slack = _OVERSHOOT if image.mode == "F" else 0
    white = next((white for white in whites if -slack * white <= least and most <= (1 + slack) * white), None)
    if not (np.isfinite(least) and np.isfinite(most)):
        raise ValueError("some of its pixels are not numbers")
    if white is None:
        raise ValueError(f"pixels from {least:g} to {most:g}, where 0 to {whites[-1]} are understood")
    scaled = np.multiply(values, np.float32(255 / white), dtype=np.float32)
    return scaled.round().clip(0, 255).astype(np.uint8)


# -- files ------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: Path | str | BinaryIO) -> Iterator[Image.Image]:
    """An image file, open; whatever goes wrong while it is used becomes a `UserError`."""
    try:
        if isinstance(source, (Path, str)):
            require_file(source)
        with Image.open(source, formats=picture_formats()) as image:
            yield image
    except Exception as error:  # decoders raise whatever a damaged file leads them into
        if isinstance(error, UserError):
            raise
        name = getattr(source, "name", "a picture") if hasattr(source, "read") else source
        reason = _reason(source, error)
        raise UserError(f"{name}: cannot be read as a picture ({reason}); repair or remove it") from error


def _reason(source: Path | str | BinaryIO, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        what = what_is(source) if isinstance(source, (Path, str)) else None
        if what is None or what.name in picture_formats():
            return "not an image, or one whose beginning is damaged"
        return f"it is {what.in_words}"
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"it has more than {most} pixels"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def read_image(source: Path | str | BinaryIO) -> Image.Image:
    """The picture in a file (its path, or open): see `upright_rgb`.

    Raises:
        UserError: it cannot be read.
    """
    with _opened(source) as image:
        _tell_of_others(source, image)
        return upright_rgb(image)


def _tell_of_others(source: Path | str | BinaryIO, image: Image.Image) -> None:
    """Says, once a process, that a file holds more pictures than the one that is taken."""
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # what an MPO adds is of the same picture
    if count > 1 and str(source) not in _told:
        _told.add(str(source))
        logger.warning("%s: holds %d pictures, of which the first is taken", source, count)


def read_animation(path: Path | str) -> Iterator[tuple[Image.Image, Fraction]]:
    """The frames of an animation (see `upright_rgb`) and how many seconds each is shown.

    Raises:
        UserError: it cannot be read, or not to its end.
    """
    with _opened(path) as image:
        # A PNG may begin with a picture for those who cannot show animations.
        for number in range(int(getattr(image, "default_image", False)), getattr(image, "n_frames", 1)):
            image.seek(number)
            frame = upright_rgb(image)
            shown = Fraction(image.info.get("duration", 0) / 1000).limit_denominator(100_000)
            yield frame, shown if shown > _TOO_SHORT else _INSTEAD


def shown_size(path: Path | str) -> tuple[int, int]:
    """Width and height of the upright picture in a file.

    Raises:
        UserError: it cannot be read.
    """
    with _opened(path) as image:
        if _turn(image) is not None:
            image.load()  # see `upright_rgb`
        width, height = image.size
        return (height, width) if _turn(image) in _TURNS else (width, height)


# -- squares ----------------------------------------------------------------------------------------


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


def load_square(source: Path | str | BinaryIO, size: int, box: Box | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Reads an image file (its path, or open) as `read_image` does and cuts a box, by default its centred square.

    Returns:
        The (size, size, 3) uint8 square, and (width, height) of the upright image in the file.

    Raises:
        UserError: it cannot be read, or shows nothing of the box.
    """
    with _opened(source) as file:
        _tell_of_others(source, file)
        turn = _turn(file)
        # A JPEG can be decoded at a half, quarter or eighth of its size, much faster, and turned when it is a square.
        # A box is one of the upright image.
        reducible = file.format in ("JPEG", "MPO") and (box is None or turn is None)
        image, turn = (file, turn) if reducible else (upright_rgb(file), None)
        width, height = image.size
        left, top, right, bottom = cut_box(width, height, box)
        # At twice the size that is needed or more, the antialiasing is left to `square`. The reduced image is rounded
        # up to whole pixels, so the box is found in the full one.
        enough = 2 * size / min(right - left, bottom - top)
        reduced = image.draft(None, (round(enough * width), round(enough * height))) if reducible else None
        scale = 1.0 if reduced is None else reduced[1][2] / width
        cut = square(_rgb(image), size, (left * scale, top * scale, right * scale, bottom * scale))
    if turn is not None:  # the centred square is the same one, turned
        cut = cut.transpose(turn)
        if turn in _TURNS:
            width, height = height, width
    return np.array(cut), (width, height)  # a copy that owns its memory and may be written to


# -- writing ----------------------------------------------------------------------------------------


def png(image: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 as a PNG file."""
    return iio.imwrite("<bytes>", image, extension=".png")  # not to a path, which imageio may take for an address


# -- looking before reading -------------------------------------------------------------------------


def why_unreadable(path: Path | str) -> str | None:
    """A cheap check: None if the file looks like an image we can read, else the reason in a few words.

    Reads the header and the last bytes. Only a file whose end does not look like the end of its format (most
    often since a download broke off), or whose pixels may be in no known range, is decoded in full to find out.
    """
    try:
        with Image.open(path, formats=picture_formats()) as image:
            if image.mode in ("I", "F") or not _looks_whole(path, image.format):
                upright_rgb(image)
    except Exception as error:  # see `_opened`
        return _reason(path, error)
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
