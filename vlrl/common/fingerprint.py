"""Short fingerprints of files: equal for equal contents, whatever their names and times.

Numbers that are kept (an evaluation, a cold start) are keyed by what they were computed from.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_WHOLE = 64 << 20  # bytes; a larger file is sampled
_BLOCK, _STRIDE = 64 << 10, 8 << 20
_DIGITS = 16


def text_fingerprint(*parts: bytes) -> str:
    """Of the parts in their order; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:_DIGITS]


def file_fingerprint(path: Path) -> str:
    """Of the contents. A file above 64 MiB is sampled: its size, its first and last bytes, and 64 KiB of every 8 MiB.

    Any training step changes nearly every weight, so another checkpoint is always seen, and a checkpoint of 60 GB takes
    half a gigabyte of reading. What the sample could miss is an edit by hand inside one tensor.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
        digest = hashlib.sha256(str(size).encode())
        for offset in (*range(0, size - _BLOCK, _STRIDE), size - _BLOCK):
            file.seek(offset)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:_DIGITS]


def folder_fingerprint(folder: Path) -> str:
    """Of the names and contents of the files directly in a folder; hidden files and Markdown do not count."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "." and path.suffix != ".md"]
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter's lock
        contents = list(pool.map(file_fingerprint, paths))
    return text_fingerprint(*(f"{path.name} {content}".encode() for path, content in zip(paths, contents, strict=True)))


def weights_fingerprint(model: str) -> str:
    """Of a folder its contents', of a model on the hub the commit that was loaded."""
    if Path(model).is_dir():
        return folder_fingerprint(Path(model))
    from huggingface_hub import try_to_load_from_cache

    return f"commit {Path(str(try_to_load_from_cache(model, 'config.json'))).parent.name}"
