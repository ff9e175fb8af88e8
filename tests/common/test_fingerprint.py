"""Fingerprints of files: of what is in them, whatever their times; large ones by samples that see any training step."""

import os

import numpy as np
import pytest

from vlrl.common import fingerprint
from vlrl.common.fingerprint import file_fingerprint, folder_fingerprint, text_fingerprint


def test_another_content_at_the_same_time_and_size_is_another_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * 1000)
    before, times = file_fingerprint(path), path.stat()
    path.write_bytes(b"a" * 999 + b"b")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_fingerprint(path) != before
    path.write_bytes(b"a" * 1000)
    assert file_fingerprint(path) == before


@pytest.mark.parametrize("where", ["everywhere", "one tensor", "the end"])
def test_a_large_file_is_sampled_and_what_training_changes_is_seen(tmp_path, monkeypatch, where):
    monkeypatch.setattr(fingerprint, "_WHOLE", 1 << 20)
    path = tmp_path / "model.safetensors"
    weights = np.zeros(40 << 20, dtype=np.uint8)
    path.write_bytes(weights.tobytes())
    before = file_fingerprint(path)
    changed = {"everywhere": slice(None, None, 5000), "one tensor": slice(9 << 20, 18 << 20), "the end": slice(-1, None)}[where]
    weights[changed] = 1
    path.write_bytes(weights.tobytes())
    assert file_fingerprint(path) != before


def test_a_folder_is_known_by_its_files_names_and_contents(tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    before = folder_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("about it")
    assert folder_fingerprint(tmp_path) == before
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert folder_fingerprint(tmp_path) != before


def test_parts_are_not_run_together():
    assert text_fingerprint(b"ab", b"c") != text_fingerprint(b"a", b"bc")
