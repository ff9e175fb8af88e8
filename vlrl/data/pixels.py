"""Turns a picture of any kind into the RGB pixels that a model sees. docs/data.md has the table of kinds and results.

Everything that looks at a picture comes through here, so a picture looks the same from a file, from encoded bytes and from a
recipe, in the build, in training and in the report.
"""

import io
import random
import re

import numpy as np
from PIL import ExifTags, Image

MAX_SIDE = 16_384  # pixels; the default of images.max_side
MAX_ASPECT = 200  # the largest aspect ratio that Qwen-VL's processors accept

_Turn = Image.Transpose
# What makes a picture upright, by its EXIF orientation.
_TURNS = {2: _Turn.FLIP_LEFT_RIGHT, 3: _Turn.ROTATE_180, 4: _Turn.FLIP_TOP_BOTTOM, 5: _Turn.TRANSPOSE}
_TURNS |= {6: _Turn.ROTATE_270, 7: _Turn.TRANSVERSE, 8: _Turn.ROTATE_90}

_SEGMENT = re.compile(rb"\xff+([^\x00\xff])(..)", re.DOTALL)
_MARKER = re.compile(rb"\xff+(?![\x00\xd0-\xd7\xff])")  # in a scan: anything but an escaped 0xff and a restart
_HUFFMAN, _SCAN, _END = (0xC0, 0xC1, 0xC2), 0xDA, b"\xd9"
# Bytes that a decoder takes for pixels if the real ones end too early; without 0xff, which would begin a marker.
_PADDING = bytes(random.Random(0).choices(range(255), k=1024))


def to_rgb(image: Image.Image, *, max_side: int = MAX_SIDE) -> Image.Image:
    """The picture in RGB: upright by its EXIF orientation, the first frame only, and on white where it is transparent.

    Grey of 16 bits or more is scaled to 8 bits. Raises ValueError if the size is not allowed or the pixels are broken. The size
    is known before the pixels are decoded, so a picture of 60,000 x 60,000 pixels is refused before it uses memory.
    """
    width, height = image.size
    if not (0 < width <= max_side and 0 < height <= max_side):
        raise ValueError(f"it has {width} x {height} pixels; each side must be 1 to {max_side} (images.max_side)")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"it has {width} x {height} pixels; the longer side must be at most {MAX_ASPECT} times the shorter")
    try:
        image.load()
        turn = _TURNS.get(_orientation(image))
        rgb = _eight_bits(image)
        return rgb.transpose(turn) if turn is not None else rgb
    except Exception as error:  # Pillow's decoders may raise anything for a broken picture
        raise ValueError(f"its pixels are broken ({error})") from None


def is_cut_jpeg(content: bytes) -> bool:
    """Whether a JPEG ends before its last pixel. Decoders fill the rest with grey and report nothing if an end marker follows.

    Decodes the picture twice, the second time with more bytes before the end marker: they change a picture that lacks some, and
    no other. Also True if there is no end marker.
    """
    if not content.startswith(b"\xff\xd8"):
        return False
    end, is_huffman = _end_of_jpeg(content)
    if end is None:
        return True
    if not is_huffman:  # an arithmetic coder may leave out its last bytes
        return False
    longer = content[:end] + _PADDING + content[end:]
    one, other = (Image.open(io.BytesIO(each), formats=["JPEG"]) for each in (content, longer))
    try:
        return one.tobytes() != other.tobytes()
    except Exception:  # the added bytes were read, and are no pixels
        return True


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # unreadable EXIF data do not make the pixels unusable
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _scaled(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image.convert("RGBA"))
    return page.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floats, in 8 bits.

    16 bits go from 0 to 65,535. The others have no fixed white: theirs is 1 (floats only), 255 or 65,535, the smallest that no
    value exceeds. If a value is negative or larger than these, the least value becomes black and the greatest white.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a value is not a finite number")
    least, greatest = float(values.min()), float(values.max())
    whites = {"F": (1.0, 255.0, 65_535.0), "I": (255.0, 65_535.0)}.get(image.mode, (65_535.0,))
    white = next((white for white in whites if least >= 0 and greatest <= white), 0.0)
    if not white:
        values, white = values - least, greatest - least or 1.0
    grey = np.rint(values * (255 / white)).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):  # a PNG's value that counts as transparent
        grey[np.asarray(image) == clear] = 255
    return Image.fromarray(grey)


def _end_of_jpeg(content: bytes) -> tuple[int | None, bool]:
    """Where the end marker of the first picture is, None if it has none; and whether its pixels are Huffman-coded."""
    place, is_huffman = 2, False
    while segment := _SEGMENT.match(content, place):
        kind = segment[1][0]
        is_huffman |= kind in _HUFFMAN
        place = segment.end(1) + int.from_bytes(segment[2], "big")
        if kind == _SCAN:
            marker = _MARKER.search(content, place)
            if marker is None:
                return None, is_huffman
            place = marker.start()
            if content[marker.end() : marker.end() + 1] == _END:
                return place, is_huffman
    return None, is_huffman
