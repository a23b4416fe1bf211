"""One reader of pictures: whatever a file is, every entrance sees the same pixels, and finds the same keypoints."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import TURNS, as_stored
from gan_runs import tiny_gan
from PIL import Image, ImageCms

from autolink.commands import edit
from autolink.commands.detect import Options, detect
from autolink.data import open_data
from autolink.data.folder import ImageFiles
from autolink.data.shards import Encoded, decode
from autolink.errors import UserError
from autolink.files import what_is
from autolink.images import read_image, shown_size, upright_rgb, why_unreadable
from autolink.model import AutoLink
from autolink.video import open_frames
from autolink_apps.gan.poses import check_poses, given_poses

SIZE = 32
_y, _x = np.mgrid[:SIZE, :SIZE]
RGB = np.stack([_x * 8, _y * 8, _x * 3 + _y * 5], axis=2).astype(np.uint8)  # unlike itself turned or mirrored
GREY = RGB[..., 2]
OPACITY = np.where(_x + 2 * _y < 40, 0, np.where(_x > 20, 255, 100)).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2).astype(np.uint8)


def over_mid_grey(image: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    share = opacity[..., None] / 255
    return np.round(image * share + 128 * (1 - share)).astype(np.uint8)


# -- files that Pillow does not write ---------------------------------------------------------------


def png(path: Path, pixels: np.ndarray, colour: int, key: tuple[int, ...] = ()) -> None:
    """A PNG of 8 or 16 bits, of the colour type 0 (grey), 2 (RGB), 4 (with alpha) or 6 (RGB with alpha)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour, 0, 0, 0))]
    if key:
        parts.append(chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in big))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def exif_of(orientation: int, *more: tuple[int, int, int, int]) -> bytes:
    """EXIF with an orientation, and with entries of tag, type, count and value or offset."""
    entries = [(0x0112, 3, 1, orientation), *more]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    return head + body + struct.pack("<Iii", 0, 1, 0)  # no further directory; 1/0


ZERO_DENOMINATOR = 0x9204, 10, 1, 8 + 2 + 2 * 12 + 4
NO_SUCH_PLACE = 0x9204, 10, 4, 1 << 30
OTHER_DIRECTORY = 0x8769, 4, 1, 1 << 30


def turned(orientation: int) -> Image.Image:
    """The picture as a camera stores it that was held so."""
    return as_stored(Image.fromarray(RGB), orientation)


# -- pictures ---------------------------------------------------------------------------------------


def lab(image: Image.Image) -> Image.Image:
    return ImageCms.profileToProfile(image, *map(ImageCms.createProfile, ("sRGB", "LAB")), outputMode="LAB")


def palette(opacities: bytes | int | None) -> Callable[[Path], object]:
    """Four colours, whose entries are as opaque as it says."""
    indexed = Image.fromarray((_x // 8).astype(np.uint8))
    indexed.putpalette(bytes(range(60, 72)))
    return lambda path: indexed.save(path, **({} if opacities is None else {"transparency": opacities}))


COLOURS = np.arange(60, 72).astype(np.uint8).reshape(4, 3)[_x // 8]
deep, image, opaque = GREY.astype(np.uint16) * 257, Image.fromarray(RGB), Image.fromarray(OPACITY)
unit = GREY.astype(np.float32) / 255

# How each is made, what is to be seen, and by how much what is stored loses of it.
PICTURES: dict[str, tuple[Callable[[Path], object], np.ndarray, int]] = {
    "rgb.png": (image.save, RGB, 0),
    "rgb.webp": (lambda path: image.save(path, lossless=True), RGB, 0),
    "rgb.bmp": (image.save, RGB, 0),
    "rgb.jpg": (lambda path: image.save(path, quality=98, subsampling=0), RGB, 4),
    "grey.png": (Image.fromarray(GREY).save, grey(GREY), 0),
    "bits.png": (Image.fromarray(GREY > 99).save, grey((GREY > 99) * 255), 0),
    "grey-alpha.png": (Image.merge("LA", (Image.fromarray(GREY), opaque)).save, over_mid_grey(grey(GREY), OPACITY), 1),
    "alpha.png": (Image.merge("RGBA", (*image.split(), opaque)).save, over_mid_grey(RGB, OPACITY), 1),
    "alpha.tif": (Image.merge("RGBA", (*image.split(), opaque)).save, over_mid_grey(RGB, OPACITY), 1),
    "palette.png": (palette(None), COLOURS, 0),
    "palette-index.png": (palette(2), np.where((_x // 8 == 2)[..., None], 128, COLOURS), 0),
    "palette-alpha.png": (
        palette(bytes([0, 51, 255, 255])),
        over_mid_grey(COLOURS, np.array([0, 51, 255, 255])[_x // 8]),
        1,
    ),
    "grey-key.png": (lambda path: png(path, GREY, 0, (40,)), grey(np.where(GREY == 40, 128, GREY)), 0),
    "rgb-key.png": (
        lambda path: png(path, RGB, 2, tuple(RGB[3, 4])),
        np.where((RGB[3, 4] == RGB).all(2, keepdims=True), 128, RGB),
        0,
    ),
    "deep.png": (Image.fromarray(deep).save, grey(GREY), 0),
    "deep-key.png": (lambda path: png(path, deep, 0, (40 * 257,)), grey(np.where(GREY == 40, 128, GREY)), 0),
    "deep-alpha.png": (
        lambda path: png(path, np.stack([deep, OPACITY.astype(np.uint16) * 257], 2), 4),
        over_mid_grey(grey(GREY), OPACITY),
        1,
    ),
    "deep-rgb.png": (lambda path: png(path, RGB.astype(np.uint16) * 257, 2), RGB, 0),
    "deep.tif": (Image.fromarray(deep).save, grey(GREY), 0),
    "deep-big-endian.tif": (Image.frombytes("I;16B", (SIZE, SIZE), deep.astype(">u2").tobytes()).save, grey(GREY), 0),
    "deep.pgm": (lambda path: path.write_bytes(b"P5 32 32 65535\n" + deep.astype(">u2").tobytes()), grey(GREY), 0),
    "integers.tif": (Image.fromarray(deep.astype(np.int32)).save, grey(GREY), 0),
    "integers-to-255.tif": (Image.fromarray(GREY.astype(np.int32)).save, grey(GREY), 0),
    "floats.tif": (Image.fromarray(unit).save, grey(GREY), 0),
    "floats-beyond.tif": (  # as resampling leaves them
        Image.fromarray(np.where(GREY > 200, 1.005, np.where(GREY < 20, -0.005, unit)).astype(np.float32)).save,
        grey(np.where(GREY > 200, 255, np.where(GREY < 20, 0, GREY))),
        0,
    ),
    "floats-to-255.tif": (Image.fromarray(GREY.astype(np.float32)).save, grey(GREY), 0),
    "floats-to-65535.tif": (Image.fromarray(deep.astype(np.float32)).save, grey(GREY), 0),
    "cmyk.tif": (image.convert("CMYK").save, RGB, 1),
    "cmyk.jpg": (lambda path: image.convert("CMYK").save(path, quality=98), RGB, 12),  # stored inverted, as Adobe does
    "ycbcr.tif": (image.convert("YCbCr").save, RGB, 3),
    "lab.tif": (lab(Image.fromarray(COLOURS)).save, COLOURS, 2),
}
for number in TURNS:
    exif = exif_of(number)
    PICTURES |= {
        f"turned{number}.png": (lambda path, n=number, e=exif: turned(n).save(path, exif=e), RGB, 0),
        f"turned{number}.tif": (lambda path, n=number, e=exif: turned(n).save(path, tiffinfo={0x0112: n}), RGB, 0),
        f"turned{number}.webp": (lambda path, n=number, e=exif: turned(n).save(path, lossless=True, exif=e), RGB, 0),
        f"turned{number}.jpg": (
            lambda path, n=number, e=exif: turned(n).save(path, quality=98, subsampling=0, exif=e),
            RGB,
            4,
        ),
    }
ODD_EXIF = {
    "zero-denominator": exif_of(6, ZERO_DENOMINATOR),
    "no-such-place": exif_of(6, NO_SUCH_PLACE),
    "other-directory": exif_of(6, OTHER_DIRECTORY),
    "twice": b"Exif\0\0" + exif_of(6),
}
for what, data in ODD_EXIF.items():
    PICTURES[f"exif-{what}.jpg"] = lambda path, data=data: turned(6).save(path, quality=98, exif=data), RGB, 12
for what, data in {
    "orientation-0": exif_of(0),
    "orientation-9": exif_of(9),
    "garbage": b"Exif\0\0" + bytes(range(99)),
    "cut": exif_of(6)[:17],
}.items():
    PICTURES[f"exif-{what}.jpg"] = lambda path, data=data: image.save(path, quality=98, exif=data), RGB, 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, (make, _, _) in PICTURES.items():
        make(folder / name)
    return folder


class Seen(AutoLink):
    """Keeps what its detector is shown."""

    def locate(self, images):
        self.shown = images
        return super().locate(images)


@pytest.fixture(scope="module")
def gan():
    """Its AutoLink sees images of `SIZE`, so that no entrance has to resize."""
    gan = tiny_gan()
    assert gan.autolink.config.image_size == SIZE
    gan.autolink.__class__ = Seen
    return gan


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """One image in [−1, 1], as (H, W, 3) uint8."""
    return ((images[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()


def seen_by_the_api(path, gan):
    with Image.open(path) as opened:
        gan.autolink.detect([opened])
    return as_bytes(gan.autolink.shown)


def seen_by_pose(path, gan):
    check_poses([path])
    (pose,) = given_poses([path], gan, 1)
    assert np.array_equal(as_bytes(gan.autolink.shown), pose.frame)
    return pose.frame


def seen_in_training(path, gan, **options):
    assert why_unreadable(path) is None
    return ImageFiles("one", path.parent, [path.name], SIZE, **options)[0].image.permute(1, 2, 0).numpy()


def seen_from_a_shard(path, gan):
    return decode(Encoded(path.name, path.read_bytes()), SIZE).image.permute(1, 2, 0).numpy()


ENTRANCES: dict[str, Callable[[Path, object], np.ndarray]] = {
    "commands": lambda path, gan: next(iter(open_frames(path))).image,  # detect, --src, --driver
    "python": seen_by_the_api,
    "pose": seen_by_pose,  # and project
    "edit": lambda path, gan: as_bytes(edit._read(path, gan.autolink)[None]),
    "training": seen_in_training,
    "a box": lambda path, gan: seen_in_training(path, gan, boxes=np.array([[0.0, 0, SIZE, SIZE]])),
    "shards": seen_from_a_shard,
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_entrance_sees_the_same_picture(pictures, gan, name, caplog):
    _, expected, tolerance = PICTURES[name]
    seen = {entrance: see(pictures / name, gan) for entrance, see in ENTRANCES.items()}
    for entrance, pixels in seen.items():
        assert pixels.dtype == np.uint8 and pixels.shape == (SIZE, SIZE, 3)
        assert np.abs(pixels.astype(int) - expected).max() <= tolerance, entrance
        assert np.array_equal(pixels, seen["commands"]), entrance
    assert shown_size(pictures / name) == (SIZE, SIZE)
    assert not caplog.records


def test_detect_and_python_find_the_same_keypoints(pictures, gan, tmp_path):
    with torch.no_grad():
        gan.autolink.detector.heatmaps.weight.mul_(3000)  # untrained as it is, it tells pictures apart
    model = gan.autolink.save_pretrained(tmp_path / "model.safetensors")
    detect(Options((pictures,), str(model), tmp_path / "out", overlays=False, device="cpu", precision="float32"))
    table = np.load(tmp_path / "out" / "keypoints.npz")
    assert len(table["sources"]) == len(PICTURES)
    opened = [Image.open(pictures / Path(table["sources"][source]).name) for source in table["source"]]
    found = gan.autolink.detect(opened)
    assert np.abs((found.xy.numpy() + 1) * SIZE / 2 - table["keypoints"]).max() < 0.01  # of 32 pixels
    assert found.xy.std(dim=0).min() > 1e-3  # and they are not all alike


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_wide_picture_is_upright_at_every_entrance(tmp_path, gan, orientation):
    """Sizes, too; of a TIFF Pillow swaps them by itself."""
    wide = np.concatenate([RGB, RGB[:, ::2]], axis=1)
    stored = as_stored(Image.fromarray(wide), orientation)
    for name, options in {
        "a.png": {"exif": exif_of(orientation)},
        "a.tif": {"tiffinfo": {0x0112: orientation}},
    }.items():
        path = tmp_path / name
        stored.save(path, **options)
        with open_frames(path) as frames, Image.open(path) as opened:
            assert (frames.width, frames.height) == (48, 32)
            assert np.array_equal(next(iter(frames)).image, wide)
            assert np.array_equal(np.array(upright_rgb(opened)), wide)
        assert np.array_equal(seen_in_training(path, gan), wide[:, 8:40])
        assert np.array_equal(seen_in_training(path, gan, boxes=np.array([[16.0, 0, 48, 32]])), wide[:, 16:])


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
DEEP_MODES = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I;16N": "=u2", "I": "=i4"}


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_in_memory(mode):
    by_way_of = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, "RGB")
    source = Image.fromarray(COLOURS * 3)
    made = lab(source) if mode == "LAB" else source.convert(by_way_of).convert(mode)
    found = np.array(upright_rgb(made)).astype(int)
    wanted = np.array(source.convert("L" if mode in ("1", "L", "LA", "La") else "RGB").convert("RGB")).astype(int)
    assert np.abs(found - wanted).max() <= {"1": 255, "P": 50, "PA": 50, "HSV": 4, "YCbCr": 4, "LAB": 4}.get(mode, 1)


@pytest.mark.parametrize("mode", DEEP_MODES)
def test_16_bits_in_every_order(mode):
    made = Image.frombytes(mode, (SIZE, SIZE), deep.astype(DEEP_MODES[mode]).tobytes())
    assert np.array_equal(np.array(upright_rgb(made)), grey(GREY))


# -- what is no picture -----------------------------------------------------------------------------


def huge(path: Path) -> None:
    """A header of 400 million pixels."""
    png(path, GREY, 0)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)


def cut(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:6000])


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.png": (lambda path: path.touch(), "it is empty"),
    "text.jpg": (lambda path: path.write_text("hello"), "it is text"),
    "cut.png": (cut, "truncated"),
    "huge.png": (huge, "more than 178956970 pixels"),
    "none.png": (lambda path: png(path, np.zeros((0, 3), np.uint8), 0), "not an image"),
    "integers.tif": (Image.fromarray(deep.astype(np.int32) * 9).save, "pixels from 0 to"),
    "negative.tif": (Image.fromarray(GREY.astype(np.int32) - 50).save, "pixels from -50 to 198"),
    "floats.tif": (Image.fromarray(deep.astype(np.float32) * 9).save, "where 0 to 65535 are understood"),
    "nan.tif": (
        Image.fromarray(np.where(GREY == 40, np.nan, unit).astype(np.float32)).save,
        "some of its pixels are not numbers",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_one_line_at_every_entrance(tmp_path, gan, name):
    make, reason = UNREADABLE[name]
    make(tmp_path / name)
    assert reason in why_unreadable(tmp_path / name)
    for entrance in (
        open_frames,
        read_image,
        shown_size,
        lambda path: list(open_frames(path)),
        lambda path: check_poses([path]),
        lambda path: edit._read(path, gan.autolink),
        lambda path: ImageFiles("one", path.parent, [path.name], SIZE)[0],
        lambda path: open_data(str(path.parent), SIZE),
    ):
        if entrance in (open_frames, shown_size) and name not in ("empty.png", "text.jpg", "huge.png", "none.png"):
            continue  # its pixels are looked at later
        with pytest.raises(UserError, match=reason) as caught:
            entrance(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_images_without_pixels_or_range_are_refused_in_python(gan):
    for wrong in (Image.new("RGB", (0, 5)), Image.fromarray(np.full((8, 8), np.nan, np.float32))):
        with pytest.raises(ValueError, match="pixels"):
            gan.autolink.detect([wrong])


def test_pages_that_are_not_taken_are_told_once(tmp_path, caplog):
    pages = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    for _ in range(2):
        assert np.array_equal(np.array(read_image(tmp_path / "pages.tif")), RGB)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'pages.tif'}: holds 2 pictures, of which the first is taken"
    ]


# -- animations -------------------------------------------------------------------------------------

FRAMES = [np.roll(COLOURS * 3, 8 * number, axis=1) for number in range(4)]
SHOWN = [40, 80, 120, 40]  # ms
ANIMATIONS = ["a.gif", "a.webp", "a.png", "a.apng"]


def animation(path: Path, frames=FRAMES, shown=SHOWN, **options) -> Path:
    first, *others = map(Image.fromarray, frames)
    kind = {".gif": "GIF", ".webp": "WEBP"}.get(path.suffix, "PNG")
    first.save(path, kind, save_all=True, append_images=others, duration=shown, lossless=True, **options)
    return path


def assert_frames(frames, tolerance: int = 0) -> None:
    for found, expected in zip(frames, FRAMES, strict=True):
        assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("name", ANIMATIONS)
def test_an_animation_is_a_clip_with_times_of_its_own(tmp_path, name):
    path = animation(tmp_path / name)
    assert what_is(path).kind == "animation"
    with open_frames(path) as frames:
        for _ in range(2):
            found = list(frames)
            assert_frames([frame.image for frame in found])
            assert [frame.time for frame in found] == [Fraction(t, 1000) for t in (0, 40, 120, 240)]
        assert (frames.width, frames.height, frames.frame_count) == (SIZE, SIZE, 4)
        assert (frames.duration, frames.frame_rate) == (Fraction(28, 100), Fraction(4 * 100, 28))
    torch.from_numpy(found[0].image).mul_(2)  # may be written to


@pytest.mark.parametrize("name", ANIMATIONS)
def test_an_animation_is_a_clip_at_every_entrance(tmp_path, gan, name, monkeypatch):
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path = animation(tmp_path / "data" / name)
    check_poses([path])
    poses = list(given_poses([path], gan, None))
    assert_frames([pose.frame for pose in poses])
    assert [pose.name for pose in poses] == [f"a-{number:06d}" for number in range(4)]
    assert [pose.name for pose in given_poses([path], gan, 2)] == ["a-000000", "a-000003"]
    for data in (path, path.parent):  # held out is the last tenth, but no less than two
        samples = [sample for split in ("train", "val") for sample in open_data(str(data), SIZE, split)]
        assert {sample.clip for sample in samples} == {name}
        assert_frames([sample.image.permute(1, 2, 0).numpy() for sample in samples], tolerance=8)  # kept as JPEG
    model = gan.autolink.save_pretrained(tmp_path / "model.safetensors")
    detect(Options((path.parent,), str(model), tmp_path / "out", device="cpu", precision="float32"))
    table = np.load(tmp_path / "out" / "keypoints.npz")
    assert table["frame"].tolist() == [0, 1, 2, 3] and table["time"].tolist() == [0, 0.04, 0.12, 0.24]
    found = torch.stack([pose.keypoints for pose in poses]).numpy()
    assert np.abs((found + 1) * SIZE / 2 - table["keypoints"]).max() < 0.01
    assert [file.name for file in (tmp_path / "out" / "overlays").iterdir()] == ["a.mp4"]


def test_frames_that_ask_for_no_time_are_shown_as_long_as_browsers_do(tmp_path):
    for name in ANIMATIONS:
        with open_frames(animation(tmp_path / name, shown=[0, 10, 20, 30])) as frames:
            assert [frame.time for frame in frames] == [Fraction(t, 100) for t in (0, 10, 20, 22)]


def test_a_picture_for_those_who_cannot_show_animations_is_no_frame(tmp_path):
    path = animation(tmp_path / "a.png", [RGB, *FRAMES], SHOWN, default_image=True)
    with open_frames(path) as frames:
        assert frames.frame_count == 4
        assert_frames([frame.image for frame in frames])


def test_transparency_of_animations_shows_mid_grey(tmp_path):
    opaque = Image.fromarray(np.where(_x < 16, 255, 0).astype(np.uint8))
    frames = [Image.merge("RGBA", (*Image.fromarray(frame).split(), opaque)) for frame in FRAMES]
    for name in ANIMATIONS:
        kind = {".gif": "GIF", ".webp": "WEBP"}.get(Path(name).suffix, "PNG")
        options = dict(save_all=True, append_images=frames[1:], duration=40, lossless=True, disposal=2)
        frames[0].save(tmp_path / name, kind, **options)
        for frame, expected in zip(open_frames(tmp_path / name), FRAMES, strict=True):
            assert np.array_equal(frame.image, np.where(_x[..., None] < 16, expected, 128))


def test_one_frame_is_a_picture(tmp_path):
    for name in ("a.webp", "a.png"):
        animation(tmp_path / name, FRAMES[:1], 40)
        assert what_is(tmp_path / name).kind == "still"


def test_a_broken_animation_is_one_line(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(4)]
    for name in ANIMATIONS:
        path = animation(tmp_path / name, noise)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
        with pytest.raises(UserError, match=name) as caught:
            open_frames(path)
        assert "\n" not in str(caught.value)


def test_where_a_picture_is_wanted_an_animation_gives_its_first(tmp_path, gan, caplog):
    path = animation(tmp_path / "a.webp")
    assert np.array_equal(as_bytes(edit._read(path, gan.autolink)[None]), FRAMES[0])
    assert "holds 4 pictures, of which the first is taken" in caplog.text


def test_what_macos_hides_beside_pictures_is_no_picture(tmp_path, gan):
    for number in range(3):
        Image.fromarray(FRAMES[number]).save(tmp_path / f"00{number}.png")
        (tmp_path / f"._00{number}.png").write_bytes(b"\0\5\x16\7" + bytes(4000))
    assert len(list(open_frames(tmp_path))) == 3
    assert len(list(given_poses([tmp_path], gan, None))) == 3
    assert len(open_data(str(tmp_path), SIZE)) + len(open_data(str(tmp_path), SIZE, "val")) == 3


@pytest.mark.parametrize("name", ["rgb.png", "rgb.webp", "rgb.jpg", "floats.tif", "deep.pgm", *ANIMATIONS])
def test_however_short_a_file_is_cut_it_is_one_line(pictures, tmp_path, name):
    path = tmp_path / name
    data = (animation(path) if name in ANIMATIONS else pictures / name).read_bytes()
    for length in [*range(0, 64, 3), len(data) // 2]:
        path.write_bytes(data[:length])
        assert name in ANIMATIONS or why_unreadable(path)  # of an animation it looks at the first frame
        with pytest.raises(UserError, match=name):
            list(open_frames(path))
