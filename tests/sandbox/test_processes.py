"""Child processes: lines both ways, deadlines that hold, limits that bind, nothing left behind."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
import pytest

from tests.conftest import PATIENCE_S
from vlrl.sandbox.processes import MAX_LINE, Child, ChildWithChildren, Standby

TAKE = "from vlrl.sandbox.child_stdio import take_pipes\nrequests, replies = take_pipes(silent=True)\n"
SAY = "import sys\ndef say(text):\n    replies.write(f'{text}\\n'.encode())\n    replies.flush()\n"


def child(body: str, limits: dict[int, int] | None = None) -> Child:
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return Child([sys.executable, "-c", TAKE + SAY + body], limits=limits or {}, env=env)


def soon() -> float:
    return time.monotonic() + PATIENCE_S


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie that waits for its new parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int) -> bool:
    end = soon()
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_running(pid)


def test_lines_cross_in_order_and_prints_do_not():
    echo = child(
        "for line in requests:\n    print('noise')\n    say(line.decode().strip()[::-1])\n    say(repr(sys.stdin.read()))"
    )
    echo.send(b"abc")
    echo.send(b"x" * 200_000)
    assert [echo.receive(soon()) for _ in range(4)] == [b"cba", b"''", b"x" * 200_000, b"''"]
    echo.kill()


@pytest.mark.parametrize("body", ["import time\ntime.sleep(10**6)", "sum(range(10**12))", "import os\nos.kill(os.getpid(), 19)"])
def test_a_deadline_holds_whatever_the_child_does(body):
    stuck = child(f"say('up')\n{body}")
    stuck.receive(soon())
    with pytest.raises(TimeoutError):
        stuck.receive(time.monotonic() + 0.1)
    assert stuck.kill() == -signal.SIGKILL


def test_a_child_that_ends_is_told_from_one_that_is_late():
    gone = child("say('last words')\nimport os\nos._exit(3)")
    assert gone.receive(soon()) == b"last words"
    with pytest.raises(EOFError):
        gone.receive(soon())
    assert gone.kill() == 3
    assert gone.kill() == 3


def test_a_line_without_end_is_cut_off():
    flood = child(f"replies.write(b'x' * {2 * MAX_LINE})\nreplies.flush()")
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        flood.receive(soon())
    flood.kill()


def test_memory_is_limited():
    hog = child(
        "requests.readline()\ntry:\n    bytearray(1 << 30)\nexcept MemoryError:\n    say('refused')",
        {resource.RLIMIT_AS: 512 << 20},
    )
    hog.send(b"go")
    assert hog.receive(soon()) == b"refused"
    hog.kill()


def test_a_limit_above_the_inherited_one_is_lowered_to_it():
    body = "requests.readline()\nimport resource\nsay(resource.getrlimit(resource.RLIMIT_NOFILE))"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    greedy = child(body, {resource.RLIMIT_NOFILE: hard + 1})
    greedy.send(b"go")
    assert greedy.receive(soon()) == f"({hard}, {hard})".encode()
    greedy.kill()


def test_a_kill_takes_the_children_of_the_child():
    parent = child("import subprocess\nsay(subprocess.Popen(['sleep', '1000000']).pid)\nrequests.read()")
    grandchild = int(parent.receive(soon()))
    assert is_running(grandchild)
    parent.kill()
    assert ends(grandchild)


def test_a_child_ends_with_its_parent_even_if_that_is_killed():
    body = f"{TAKE}{SAY}import time\nsay('up')\ntime.sleep(10**6)"
    program = f"""
import os, sys, time
from vlrl.sandbox.processes import Child
child = Child([sys.executable, "-c", {body!r}], limits={{}}, env=os.environ)
child.receive(time.monotonic() + {PATIENCE_S})
print(child._process.pid, flush=True)
time.sleep(10**6)"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=env)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.kill()
    parent.communicate()
    assert ends(pid)


def test_children_on_standby_start_while_nobody_asks_and_each_is_handed_out_once():
    starters = []

    def make() -> Child:
        starters.append(threading.current_thread().name)
        return child("say('up')\nrequests.readline()")

    standby = Standby(make, most=2)
    taken = [standby.take()]
    end = soon()
    while len(standby._ready) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    taken += [standby.take(), standby.take()]
    assert starters == [threading.current_thread().name, "standby", "standby"]
    assert [each.receive(soon()) for each in taken] == [b"up"] * 3 and len({id(each) for each in taken}) == 3
    for each in taken:
        each.kill()


def test_a_child_that_ended_on_standby_is_not_handed_out():
    numbers = count()
    standby = Standby(lambda: child("say('up')\nrequests.readline()" if next(numbers) != 1 else "0"), most=1)
    first = standby.take()
    end = soon()
    while next(reversed(standby._ready), first) is first and time.monotonic() < end:
        time.sleep(0.02)
    while not standby._ready[0].has_ended and time.monotonic() < end:
        time.sleep(0.02)
    second = standby.take()
    assert (first.receive(soon()), second.receive(soon())) == (b"up", b"up")
    first.kill()
    second.kill()


def test_children_of_a_killed_child_are_killed_even_while_it_starts_more(tmp_path):
    start = f"Popen(['sleep', '1000'], start_new_session=True, cwd={str(tmp_path)!r})"
    body = f"from subprocess import Popen\nfor n in range(100):\n    {start}\n    say(n)\nrequests.read()"
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": os.environ["PATH"]}
    parent = ChildWithChildren([sys.executable, "-c", TAKE + SAY + body], limits={}, env=env)
    parent.receive(soon())
    parent.kill()
    children = [each for each in psutil.process_iter() if in_folder(each, tmp_path)]
    assert all(ends(each.pid) for each in children)


def in_folder(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        return process.cwd() == str(folder)
    return False


def test_a_process_that_ends_kills_the_children_that_wait_for_it():
    make = "lambda: Child([sys.executable, '-c', 'import time; time.sleep(1000)'], limits={}, env={})"
    body = f"""
import sys, time
from vlrl.sandbox.processes import Child, Standby
pool = Standby({make}, most=2)
pool.take().kill()
while len(pool._ready) < 2:
    time.sleep(0.01)
print(*(each._process.pid for each in pool._ready))
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", body], env=env, capture_output=True, text=True, timeout=60, check=True)
    waiting = list(map(int, done.stdout.split()))
    assert len(waiting) == 2 and all(map(ends, waiting))
