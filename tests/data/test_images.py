"""Images by reference: what cannot be used is refused with its reference, before it costs memory."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from vlrl.data.images import open_image, read_image_bytes


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims width x height; its pixels are those of a 4x4 image."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, format="PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + file.getvalue()[24:29]
    return file.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + file.getvalue()[33:]


def save(folder: Path, content: bytes) -> str:
    path = folder / "picture.png"
    path.write_bytes(content)
    return str(path)


def test_an_image_is_opened_as_rgb(tmp_path):
    file = io.BytesIO()
    Image.new("LA", (5, 3), (100, 0)).save(file, format="PNG")
    image = open_image(save(tmp_path, file.getvalue()), max_side=5)
    assert image.mode == "RGB" and image.size == (5, 3)


def test_bytes_inside_a_shard_are_found_by_offset_and_size(tmp_path):
    (tmp_path / "s#1.tar").write_bytes(b"....." + png(4, 4) + b"....")
    assert read_image_bytes(f"{tmp_path}/s#1.tar#5+{len(png(4, 4))}") == png(4, 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        png(4, 4)[:20],
        png(4, 4)[:50],
        png(4, 400),
        png(0, 4),
        png(5, 4),
        png(60_000, 60_000),
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["empty", "text", "cut header", "cut pixels", "too few pixels", "zero width", "too large", "bomb", "signature alone"],
)
def test_what_is_no_usable_image_is_refused_by_name(tmp_path, content):
    ref = save(tmp_path, content)
    with pytest.raises(ValueError, match=ref):
        open_image(ref, max_side=4)


def test_a_claimed_size_is_refused_before_decoding(tmp_path):
    with pytest.raises(ValueError, match=r"9000 x 9000 pixels; each side must be 1 to 4096"):
        open_image(save(tmp_path, png(9000, 9000)), max_side=4096)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="nowhere.png cannot be read"):
        read_image_bytes(str(tmp_path / "nowhere.png"))


def test_a_shard_that_ends_too_early_is_refused(tmp_path):
    (tmp_path / "s.tar").write_bytes(png(4, 4))
    with pytest.raises(ValueError, match=r"s\.tar#10\+5000 is truncated \(\d+ bytes\)"):
        read_image_bytes(f"{tmp_path}/s.tar#10+5000")
