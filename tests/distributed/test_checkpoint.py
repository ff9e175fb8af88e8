"""Checkpoints survive kill -9, torn and flipped bytes and full disks; sealing goes on in the background."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from tests.distributed.saving import CrashError, crash, flipped, names, newest_step, save_steps, write_weights
from vlrl.distributed import checkpoint
from vlrl.distributed.checkpoint import begin, newest_good, save


def test_a_saved_checkpoint_comes_back_with_its_files_and_state(tmp_path):
    save_steps(tmp_path, 50)
    found = newest_good(tmp_path)
    assert (found.step, found.state, found.path.name) == (50, {"seed": 50}, "step-000050")
    assert (found.path / "optimizer.pt").read_bytes() == b"momentum" * 100


def test_the_manifest_vouches_for_every_other_file(tmp_path):
    save_steps(tmp_path, 50)
    manifest = json.loads((tmp_path / "step-000050" / "manifest.json").read_text())
    assert manifest["step"] == 50
    assert sorted(manifest["files"]) == ["optimizer.pt", "policy/weights.pt", "state.json"]


def test_a_root_that_is_missing_or_empty_has_no_checkpoint(tmp_path):
    assert newest_good(tmp_path) is None
    assert newest_good(tmp_path / "nowhere") is None


def test_only_the_newest_are_kept_and_stale_temporaries_go(tmp_path):
    (tmp_path / ".tmp-step-000007").mkdir()
    save_steps(tmp_path, 10, 20, 30, 40, keep=2)
    assert names(tmp_path) == ["step-000030", "step-000040"]


def test_a_damaged_checkpoint_is_not_one_of_those_kept(tmp_path):
    save_steps(tmp_path, 10, 20)
    (tmp_path / "step-000020" / "optimizer.pt").unlink()
    save_steps(tmp_path, 30)
    assert names(tmp_path) == ["step-000010", "step-000030"]


def test_checkpoints_of_a_future_that_the_run_left_are_removed(tmp_path):
    save_steps(tmp_path, 10, 20)
    save_steps(tmp_path, 15)
    assert newest_step(tmp_path) == 15


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "step-000010-copy").mkdir()
    save_steps(tmp_path, 10, 20, keep=1)
    assert names(tmp_path) == ["step-000010-copy", "step-000020"]


def torn(folder: Path) -> None:
    os.truncate(folder / "optimizer.pt", 10)


def state_flipped(folder: Path) -> None:
    (folder / "state.json").write_text((folder / "state.json").read_text().replace("100", "101"))


def without_a_file(folder: Path) -> None:
    (folder / "policy" / "weights.pt").unlink()


def without_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def manifest_torn(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 30)


def manifest_of_another_shape(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2]")


def manifest_of_another_step(folder: Path) -> None:
    shutil.copytree(folder.with_name("step-000050"), folder, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (torn, "optimizer.pt has 10 bytes, manifest says 800"),
        (flipped, "policy/weights.pt has other contents than the manifest says"),
        (state_flipped, "state.json has other contents than the manifest says"),
        (without_a_file, "policy/weights.pt is missing"),
        (without_manifest, "manifest.json is missing"),
        (manifest_torn, "manifest.json cannot be read"),
        (manifest_of_another_shape, "manifest.json cannot be read"),
        (manifest_of_another_step, "its manifest is of step 50"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, caplog, damage, sentence):
    save_steps(tmp_path, 50, 100)
    damage(tmp_path / "step-000100")
    assert newest_step(tmp_path) == 50
    assert caplog.messages == [f"checkpoint step-000100 is damaged: {sentence}; falling back to step-000050"]


def test_where_all_are_damaged_nothing_starts_from_the_beginning_unasked(tmp_path, caplog):
    save_steps(tmp_path, 50, 100)
    torn(tmp_path / "step-000050")
    torn(tmp_path / "step-000100")
    with pytest.raises(ValueError, match="no checkpoint in .* is whole"):
        newest_good(tmp_path)
    assert caplog.messages[-1].endswith("no older one is left")


@pytest.mark.parametrize("phase", ["_make_room", "_written", "_note", "_entry", "_noted", "_seal", "_put_in_place"])
def test_a_crash_in_any_phase_of_a_save_leaves_the_last_checkpoint(tmp_path, monkeypatch, phase):
    save_steps(tmp_path, 50)
    with monkeypatch.context() as patch, pytest.raises(CrashError):
        patch.setattr(checkpoint, phase, crash)
        save_steps(tmp_path, 100)
    assert newest_step(tmp_path) == 50
    save_steps(tmp_path, 100)
    assert names(tmp_path) == ["step-000050", "step-000100"]


def test_a_crash_inside_write_leaves_the_last_checkpoint(tmp_path):
    save_steps(tmp_path, 50)
    with pytest.raises(CrashError):
        save(tmp_path, 100, crash, {}, keep=2)
    assert newest_step(tmp_path) == 50


def test_a_crash_between_manifest_and_rename_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    save_steps(tmp_path, 50)
    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(CrashError):
        save_steps(tmp_path, 100)
    assert (tmp_path / ".tmp-step-000100" / "manifest.json").exists()
    assert newest_step(tmp_path) == 50


def test_a_crash_before_pruning_has_the_new_checkpoint(tmp_path, monkeypatch):
    save_steps(tmp_path, 50)
    monkeypatch.setattr(checkpoint, "_prune", crash)
    with pytest.raises(CrashError):
        save_steps(tmp_path, 100)
    assert newest_step(tmp_path) == 100


def test_every_file_is_on_the_disk_before_the_manifest_vouches_for_it(tmp_path, monkeypatch):
    synced = []

    def sync(path: Path) -> None:
        synced.append((path.name, (tmp_path / ".tmp-step-000050" / "manifest.json").exists()))

    monkeypatch.setattr(checkpoint, "sync", sync)
    save_steps(tmp_path, 50)
    before = [name for name, has_manifest in synced if not has_manifest]
    assert {"optimizer.pt", "policy", "weights.pt", "state.json", ".tmp-step-000050"} <= set(before)
    assert [name for name, _ in synced[-3:]] == ["manifest.json", ".tmp-step-000050", tmp_path.name]


def test_saving_a_step_again_replaces_it(tmp_path):
    save_steps(tmp_path, 50)
    save(tmp_path, 50, write_weights, {"seed": "another"}, keep=1)
    assert newest_good(tmp_path).state == {"seed": "another"}
    assert names(tmp_path) == ["step-000050"]


def test_a_crash_while_a_step_is_replaced_still_has_the_old_one(tmp_path, monkeypatch):
    save_steps(tmp_path, 50)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: crash() if path.name.startswith(".tmp") else rename(path, to))
    with pytest.raises(CrashError):
        save(tmp_path, 50, write_weights, {"seed": "another"}, keep=1)
    assert newest_good(tmp_path).state == {"seed": 50}
    monkeypatch.undo()
    save_steps(tmp_path, 60, keep=2)
    assert newest_step(tmp_path) == 60


SAVER = """
import sys
from pathlib import Path
from vlrl.distributed.checkpoint import save

def write(folder):
    for number in range(4):
        (folder / f"{number}.pt").write_bytes(b"%d" % step * 20_000)

for step in range(1, 100_000):
    save(Path(sys.argv[1]), step, write, {"step": step}, keep=2)
    print(step, flush=True)
"""


def test_kill_9_at_any_moment_of_a_save_leaves_a_good_checkpoint(tmp_path):
    for attempt in range(6):
        root = tmp_path / str(attempt)
        with subprocess.Popen([sys.executable, "-c", SAVER, str(root)], stdout=subprocess.PIPE, text=True) as saver:
            assert saver.stdout.readline() == "1\n"
            time.sleep(0.017 * attempt)
            saver.kill()
            told = [1, *map(int, saver.stdout.read().split())]
        found = newest_good(root)
        assert found.step in (told[-1], told[-1] + 1)
        assert found.state == {"step": found.step}


def test_importing_the_module_does_not_load_torch():
    subprocess.run(
        [sys.executable, "-c", "import sys, vlrl.distributed.checkpoint; assert 'torch' not in sys.modules"], check=True
    )


def test_too_little_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    save_steps(tmp_path, 50)
    usage = namedtuple("usage", "total used free")
    last = sum(path.stat().st_size for path in (tmp_path / "step-000050").rglob("*") if path.is_file())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, int(1.19 * last)))
    with pytest.raises(OSError, match=r"a checkpoint needs .* GB and .* GB are free"):
        save(tmp_path, 100, crash, {}, keep=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, int(1.21 * last)))
    save_steps(tmp_path, 100)
    assert names(tmp_path) == ["step-000050", "step-000100"]


def test_the_first_checkpoint_is_measured_by_the_size_expected(tmp_path):
    with pytest.raises(OSError, match="make room"):
        save(tmp_path, 50, crash, {}, keep=2, expected_bytes=10**18)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MB; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode:
        pytest.skip("needs a tmpfs, which can't be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_during_a_save_leaves_the_last_checkpoint(tiny_disk):
    save_steps(tiny_disk, 50)
    with pytest.raises(OSError, match="No space left"):
        save(tiny_disk, 100, lambda folder: (folder / "big.pt").write_bytes(bytes(2_000_000)), {}, keep=2)
    assert newest_step(tiny_disk) == 50
    save_steps(tiny_disk, 100)
    assert newest_step(tiny_disk) == 100


def test_a_checkpoint_is_sealed_beside_what_comes_next_and_there_once_that_is_waited_for(tmp_path, monkeypatch):
    may_go_on = threading.Event()
    seal = checkpoint._seal
    monkeypatch.setattr(checkpoint, "_seal", lambda *args: may_go_on.wait(PATIENCE_S) and seal(*args))
    finish = begin(tmp_path, 50, write_weights, {"seed": 1}, keep=2)
    assert names(tmp_path) == [".tmp-step-000050"]
    may_go_on.set()
    finish()
    assert newest_step(tmp_path) == 50


def test_what_goes_wrong_in_the_background_is_told_where_it_is_waited_for(tmp_path, monkeypatch):
    save_steps(tmp_path, 50)
    monkeypatch.setattr(checkpoint, "_seal", lambda *args: (_ for _ in ()).throw(OSError("no space left")))
    finish = begin(tmp_path, 100, write_weights, {}, keep=2)
    with pytest.raises(OSError, match="no space left"):
        finish()
    assert newest_step(tmp_path) == 50
