"""Pictures of every kind become the RGB pixels that docs/data.md names; cut and impossible ones are refused."""

import contextlib
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from tests.preflight.good_run import png as huge
from vlrl.data.images import decode_image, decode_whole_image
from vlrl.data.pixels import is_cut_jpeg, to_rgb
from vlrl.data.recipe import png

DOCUMENT = (Path(__file__).parents[2] / "docs/data.md").read_text()
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def row(values, dtype, mode: str | None = None) -> Image.Image:
    """A picture one pixel high."""
    return Image.fromarray(np.array([values], dtype=dtype), mode) if mode else Image.fromarray(np.array([values], dtype=dtype))


def pixels(image: Image.Image) -> list[tuple[int, int, int]]:
    assert image.mode == "RGB"
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


def ink_on_nothing(mode: str) -> Image.Image:
    """A red (or black) pixel, then a transparent one that is black underneath."""
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (*RED, 255) if mode not in ("LA",) else (0, 0, 0, 255))
    return image.convert(mode)


def palette(transparency) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 0])
    image.putpixel((1, 0), 1)
    return saved(image, transparency=transparency)


def png_chunks(bits: int, colour: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of two pixels that Pillow cannot write."""
    head = struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(b"\0" + data)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.new("RGB", (24, 16), "white")
    image.paste(RED, (0, 0, 8, 8))
    return saved(image, kind, exif=exif)


RED_NEXT_TO_BLACK = Image.new("RGB", (2, 1), RED)
RED_NEXT_TO_BLACK.putpixel((1, 0), BLACK)
FRAMES = [Image.new("RGB", (1, 1), RED), Image.new("RGB", (1, 1), BLACK)]
ALL = {"save_all": True, "append_images": FRAMES[1:]}

# By the first cell of its line in docs/data.md: each picture's bytes, and its pixels.
KINDS = {
    "8 bits in colour or grey": [
        (saved(RED_NEXT_TO_BLACK), [RED, BLACK]),
        (saved(RED_NEXT_TO_BLACK, "BMP"), [RED, BLACK]),
        (saved(RED_NEXT_TO_BLACK, "TIFF"), [RED, BLACK]),
        (saved(RED_NEXT_TO_BLACK, "GIF"), [RED, BLACK]),
        (saved(RED_NEXT_TO_BLACK, "WEBP", lossless=True), [RED, BLACK]),
        (saved(Image.new("L", (1, 1), 77)), [(77, 77, 77)]),
        (saved(Image.new("L", (8, 8), 77), "JPEG"), [(77, 77, 77)] * 64),
    ],
    "a palette": [(saved(RED_NEXT_TO_BLACK.convert("P", palette=Image.Palette.ADAPTIVE)), [RED, BLACK])],
    "1 bit": [(saved(row([0, 255], np.uint8).convert("1"), kind), [BLACK, WHITE]) for kind in ("PNG", "TIFF", "BMP")],
    "transparency": [
        (saved(ink_on_nothing("RGBA")), [RED, WHITE]),
        (saved(ink_on_nothing("RGBA"), "WEBP", lossless=True), [RED, WHITE]),
        (saved(ink_on_nothing("RGBA"), "TIFF"), [RED, WHITE]),
        (saved(ink_on_nothing("RGBA"), "GIF"), [RED, WHITE]),
        (saved(ink_on_nothing("LA")), [BLACK, WHITE]),
        (saved(Image.new("RGBA", (1, 1), (0, 0, 0, 51))), [(204, 204, 204)]),
        (palette(1), [RED, WHITE]),
        (palette(bytes([255, 0])), [RED, WHITE]),
        (saved(RED_NEXT_TO_BLACK, transparency=BLACK), [RED, WHITE]),
        (saved(row([0, 9], np.uint8), transparency=9), [BLACK, WHITE]),
        (png_chunks(16, 0, b"\0\0\x12\x34", (b"tRNS", b"\x12\x34")), [BLACK, WHITE]),
        (png_chunks(16, 6, b"\xff\xff\0\0\0\0\xff\xff" + b"\0" * 8), [RED, WHITE]),
        (png_chunks(16, 4, b"\0\0\xff\xff\0\0\0\0"), [BLACK, WHITE]),
    ],
    "16 bits": [(saved(row([0, 32896, 65535], np.uint16), kind), [BLACK, (128, 128, 128), WHITE]) for kind in ("PNG", "TIFF")]
    + [(png_chunks(16, 2, b"\xff\xff\0\0\0\0" + b"\x80\0" * 3), [RED, (128, 128, 128)])],
    "32 bits or floats": [
        (saved(row(values, dtype), "TIFF"), [(grey, grey, grey) for grey in greys])
        for values, dtype, greys in (
            ([0, 0.2, 1], np.float32, [0, 51, 255]),
            ([0, 51, 254], np.float32, [0, 51, 254]),
            ([0, 32896, 65535], np.float32, [0, 128, 255]),
            ([0, 51, 254], np.int32, [0, 51, 254]),
            ([0, 1], np.int32, [0, 1]),
            ([0, 32896, 65535], np.int32, [0, 128, 255]),
            ([-1, 0, 1], np.float32, [0, 128, 255]),
            ([-100, -40, 200], np.int32, [0, 51, 255]),
            ([0, 100_000], np.int32, [0, 255]),
            ([-5, -5], np.int32, [0, 0]),
        )
    ],
    "CMYK, Lab": [
        (saved(Image.new("LAB", (2, 1), (0, 128, 128)), "TIFF"), [BLACK, BLACK]),
        (saved(Image.new("LAB", (2, 1), (255, 128, 128)), "TIFF"), [WHITE, WHITE]),
        (saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), [RED] * 64),
        (saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), [WHITE] * 64),
    ],
    "EXIF orientation": [],  # below
    "animation, several pages": [(saved(FRAMES[0], kind, **ALL), [RED]) for kind in ("GIF", "PNG", "TIFF")]
    + [(saved(FRAMES[0], "WEBP", lossless=True, **ALL), [RED])],
    "one pixel": [(saved(Image.new("RGB", (1, 1), RED)), [RED])],
}

REFUSED = {
    "a side above 16,384 pixels": (saved(Image.new("1", (16_385, 100))), "each side must be 1 to 16384"),
    "more than 178,956,970 pixels": (huge(15_000, 15_000, pixels=False), "cannot be opened"),
    "over 200 times as long as wide": (saved(Image.new("1", (201, 1))), "at most 200 times the shorter"),
    "cut off or broken": (saved(Image.effect_noise((64, 64), 90))[:999], "its pixels are broken"),
    "another format, such as SVG, HEIC, AVIF or PDF": (saved(RED_NEXT_TO_BLACK, "PDF"), "it is not an image"),
    "values that are not finite": (saved(row([0, np.nan], np.float32), "TIFF"), "a value is not a finite number"),
}


def test_every_kind_of_picture_in_the_document_is_tested_and_every_tested_one_is_in_it():
    table = DOCUMENT.partition("| picture | what the model sees |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)[1:] == [*KINDS, *REFUSED]


@pytest.mark.parametrize(
    ("content", "seen"), [pytest.param(*each, id=kind) for kind, several in KINDS.items() for each in several]
)
def test_a_picture_becomes_the_pixels_that_belong_to_its_kind(content, seen):
    image = decode_whole_image(content)
    assert np.abs(np.array(pixels(image)) - np.array(seen)).max() <= 1
    assert decode_image(png(Image.open(io.BytesIO(content)))).tobytes() == image.tobytes(), "a recipe's picture looks the same"


@pytest.mark.parametrize(("content", "says"), REFUSED.values(), ids=REFUSED)
def test_a_picture_that_cannot_be_seen_is_refused(content, says):
    with pytest.raises(ValueError, match=says):
        decode_image(content)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_upright_from_bytes_from_a_recipe_and_as_other_libraries_turn_it(orientation, kind):
    content = turned(orientation, kind)
    opened = Image.open(io.BytesIO(content))
    expected = ImageOps.exif_transpose(opened)
    for image in (decode_image(content), decode_image(png(opened)), to_rgb(expected), decode_image(png(expected))):
        assert image.size == expected.size and image.tobytes() == expected.convert("RGB").tobytes()
    assert (expected.size == (16, 24)) == (orientation > 4)


def test_unreadable_exif_data_do_not_cost_the_picture():
    content = saved(RED_NEXT_TO_BLACK, exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    assert pixels(decode_image(content)) == [RED, BLACK]


def test_a_picture_whose_file_a_recipe_has_closed_is_refused_not_a_crash():
    with Image.open(io.BytesIO(saved(RED_NEXT_TO_BLACK))) as image:
        pass
    with pytest.raises(ValueError, match="its pixels are broken"):
        to_rgb(image)


@given(st.binary(min_size=1, max_size=64), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_no_bytes_raise_anything_but_a_value_error(noise, place, kind):
    content = saved(Image.radial_gradient("L").resize((24, 24)).convert("RGB"), kind)
    place %= len(content)
    for broken in (content[:place] + noise + content[place + len(noise) :], content[:place], noise):
        with contextlib.suppress(ValueError):
            assert decode_whole_image(broken).mode == "RGB"


NOISE = Image.effect_noise((160, 120), 80).convert("RGB")
WAYS = [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}, {"subsampling": 2}, {"quality": 100}]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_was_cut_and_closed_again_is_found_and_a_whole_one_is_not(mode, way):
    content = saved(NOISE.convert(mode), "JPEG", **way)
    assert not is_cut_jpeg(content) and not is_cut_jpeg(content + b"a trailer\xff\xd9")
    for share in (0.5, 0.7, 0.9):
        cut = content[: int(len(content) * share)].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(ValueError, match="its pixels are broken"):
            decode_whole_image(cut)
        if not way:
            assert decode_image(cut).size == (160, 120), "Pillow itself sees nothing wrong"


def test_a_thumbnail_inside_a_jpeg_is_not_taken_for_its_end():
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = saved(Image.new("RGB", (8, 8)), "JPEG")
    content = saved(NOISE, "JPEG", exif=exif)
    assert content.count(b"\xff\xd9") == 2
    assert not is_cut_jpeg(content) and is_cut_jpeg(content[:-2000] + b"\xff\xd9")
