"""Reads images by reference. A reference is a file's path, or `SHARD.tar#OFFSET+SIZE` for the bytes inside a shard.

A step passes references around and decodes pixels only for the processor. An unusable image raises ValueError with its reference;
an image that is too large is refused before it is decoded.
"""

import io
import re
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vlrl.data.pixels import MAX_SIDE, is_cut_jpeg, to_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_IN_SHARD = re.compile(r"(?P<shard>.+\.tar)#(?P<offset>\d+)\+(?P<size>\d+)")


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
    """The decoded RGB image, as vlrl.data.pixels describes. Raises ValueError if the bytes cannot be used."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:  # its message only names a buffer in memory
        raise ValueError(f"it is not an image, or has no pixels; readable formats: {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow may raise anything for a broken header
        raise ValueError(f"the image cannot be opened ({error})") from None
    return to_rgb(image, max_side=max_side)


def decode_whole_image(content: bytes) -> Image.Image:
    """Like `decode_image`, but also refuses a JPEG that was cut off and closed again. For builds and checks: it takes longer."""
    image = decode_image(content)
    if is_cut_jpeg(content):
        raise ValueError("its pixels are broken (the JPEG ends before its last pixel)")
    return image


def image_size(ref: str) -> int:
    """The number of encoded bytes, without reading them."""
    inside = _IN_SHARD.fullmatch(ref)
    return int(inside["size"]) if inside else Path(ref).stat().st_size
