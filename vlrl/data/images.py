"""Reads images by reference. A reference is a file's path, or `SHARD.tar#OFFSET+SIZE` for the bytes inside a shard.

A step passes references around and decodes pixels only for the processor. An unusable image raises ValueError with its reference;
an image that is too large is refused before it is decoded.
"""

import io
import re
import struct
import zlib
from pathlib import Path

from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_SIDE = 16_384  # pixels; the default of images.max_side
MAX_ASPECT = 200  # the largest aspect ratio that Qwen-VL's processors accept
_IN_SHARD = re.compile(r"(?P<shard>.+\.tar)#(?P<offset>\d+)\+(?P<size>\d+)")
# The errors that Pillow's decoders raise for broken images.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image_bytes(ref: str) -> bytes:
    """The encoded image. Raises ValueError with the reference if the file is missing or empty, or the shard is too short."""
    inside = _IN_SHARD.fullmatch(ref)
    path = Path(inside["shard"] if inside else ref)
    try:
        with path.open("rb") as file:
            file.seek(int(inside["offset"]) if inside else 0)
            content = file.read(int(inside["size"]) if inside else -1)
    except OSError as error:
        raise ValueError(f"image {ref} cannot be read ({error.strerror}); build its data set again") from None
    if not content or (inside and len(content) < int(inside["size"])):
        raise ValueError(f"image {ref} is truncated ({len(content)} bytes); build its data set again")
    return content


def open_image(ref: str, *, max_side: int) -> Image.Image:
    """The decoded RGB image. Raises ValueError with the reference if the image is incomplete or a side exceeds max_side."""
    content = read_image_bytes(ref)
    try:
        return decode_image(content, max_side=max_side)
    except ValueError as error:
        raise ValueError(f"image {ref}: {error}") from None


def decode_image(content: bytes, *, max_side: int = MAX_SIDE) -> Image.Image:
    """The decoded RGB image. Raises ValueError if the bytes cannot be used.

    The size is read from the header, so an image with 60,000 x 60,000 pixels is refused before it uses memory.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:  # its message only names a buffer in memory
        raise ValueError(f"it is not an image, or has no pixels; readable formats: {', '.join(FORMATS)}") from None
    except _BROKEN as error:
        raise ValueError(f"the image cannot be opened ({error})") from None
    width, height = image.size
    if not (0 < width <= max_side and 0 < height <= max_side):
        raise ValueError(f"it has {width} x {height} pixels; each side must be 1 to {max_side} (images.max_side)")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"it has {width} x {height} pixels; the longer side must be at most {MAX_ASPECT} times the shorter")
    try:
        return image.convert("RGB")
    except _BROKEN as error:
        raise ValueError(f"its pixels are broken ({error})") from None


def image_size(ref: str) -> int:
    """The number of encoded bytes, without reading them."""
    inside = _IN_SHARD.fullmatch(ref)
    return int(inside["size"]) if inside else Path(ref).stat().st_size
