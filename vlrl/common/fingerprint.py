"""Computes short fingerprints of files: equal for equal contents, independent of names and times.

Stored results (an evaluation, a cold start) are keyed by the fingerprints of their inputs.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_WHOLE = 64 << 20  # bytes; a larger file is sampled
_BLOCK, _STRIDE = 64 << 10, 8 << 20
_DIGITS = 16


def text_fingerprint(*parts: bytes) -> str:
    """The fingerprint of the parts in their order; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:_DIGITS]


def file_fingerprint(path: Path) -> str:
    """The fingerprint of the contents. A file above 64 MiB is sampled: its size, its first and last bytes, and 64 KiB of every 8
    MiB.

    A training step changes nearly every weight, so the sample detects any other checkpoint. It reads half a gigabyte of a 60 GB
    checkpoint. It can miss a manual edit inside one tensor.
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
    """The fingerprint of the names and contents of a folder's files. Ignores subfolders, hidden files and Markdown."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "." and path.suffix != ".md"]
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        contents = list(pool.map(file_fingerprint, paths))
    return text_fingerprint(*(f"{path.name} {content}".encode() for path, content in zip(paths, contents, strict=True)))


def weights_fingerprint(model: str) -> str:
    """The fingerprint of a model folder's contents, or the loaded commit of a model on the hub."""
    if Path(model).is_dir():
        return folder_fingerprint(Path(model))
    from huggingface_hub import try_to_load_from_cache

    return f"commit {Path(str(try_to_load_from_cache(model, 'config.json'))).parent.name}"
