"""One command at a time in a folder: who is refused, when the lock ends, and that it leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from vlrl.common.folder_lock import LOCK, held

ROOT = Path(__file__).parents[2]

HOLDER = """
import subprocess, sys
from pathlib import Path
from vlrl.common.folder_lock import held

with held(Path(sys.argv[1]), doing="trained", remedy="choose another name"):
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, flush=True)
    child.wait()
"""


def hold(folder, **how):
    return held(folder, **{"doing": "trained", "remedy": "choose another name"} | how)


def test_a_second_command_is_refused_with_who_holds_the_folder(tmp_path):
    who = f"process {os.getpid()} on {socket.gethostname()}"
    with hold(tmp_path / "run"), pytest.raises(ValueError) as refusal, hold(tmp_path / "run"):
        pass
    assert str(refusal.value) == f"{tmp_path}/run is being trained by {who}; wait for it, or choose another name"


def test_a_refusal_leaves_the_lock_to_its_holder(tmp_path):
    with hold(tmp_path / "run"):
        for _ in range(2):
            with pytest.raises(ValueError, match="is being trained"), hold(tmp_path / "run"):
                pass


def test_a_command_that_writes_nothing_leaves_no_folder(tmp_path):
    with hold(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()
    assert not (tmp_path / "run").exists()


def test_what_a_command_has_written_stays_without_the_lock(tmp_path):
    with hold(tmp_path / "run"):
        (tmp_path / "run" / "metrics.jsonl").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_command_that_fails_lets_the_folder_go(tmp_path):
    with pytest.raises(RuntimeError), hold(tmp_path):
        raise RuntimeError
    with hold(tmp_path):
        pass


def test_a_holder_that_is_killed_leaves_nothing_stale_though_its_child_lives_on(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(ValueError, match=re.escape(f"process {holder.pid} on ")), hold(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(PATIENCE_S)
        os.kill(child, 0)
        with hold(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.communicate()


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    reading, writing = os.pipe()
    with hold(tmp_path):
        if not (child := os.fork()):
            os.close(writing)
            os.read(reading, 1)  # until the parent closes its end
            os._exit(0)
    try:
        with hold(tmp_path):
            pass
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


@pytest.mark.parametrize(("host", "is_alive"), [("another", True), (socket.gethostname(), False)])
def test_a_holder_that_is_alive_or_on_this_host_keeps_its_lock(tmp_path, host, is_alive):
    with hold(tmp_path):
        (tmp_path / LOCK).write_text(f"trained by process 7 on {host}")
        with pytest.raises(ValueError, match="is being trained by process 7"), hold(tmp_path, is_alive=lambda: is_alive):
            pass


def test_the_lock_of_another_host_that_shows_no_sign_of_life_is_taken_over(tmp_path, caplog):
    with hold(tmp_path):
        (tmp_path / LOCK).write_text("trained by process 7 on another")
        with hold(tmp_path, is_alive=lambda: False):
            assert (tmp_path / LOCK).read_text().endswith(f" on {socket.gethostname()}")
    assert "process 7 on another, which shows no sign of life; its lock is taken over" in caplog.text


def test_the_other_ranks_leave_the_lock_to_the_first(tmp_path, monkeypatch):
    with hold(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with hold(tmp_path):
            pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match="cannot write .*/runs/one/lock: Not a directory; choose"), hold(tmp_path / "runs" / "one"):
        pass
