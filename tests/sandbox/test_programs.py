"""Programs that read stdin: right ones are paid whatever way they read, write and end, and attacks are not."""

import pytest

from tests.conftest import PATIENCE_S, needs_a_jail
from vlrl.types import Score, Status
from vlrl.verifiers.code import score_programs

CASES = [("3\n1 2 3\n", "6\n"), ("2\n10 20\n", "30")]
MEMORY_MB = 1024
READ = "n = int(input())\ns = sum(map(int, input().split()))\n"
MAIN = "def main():\n    input()\n    print(sum(map(int, input().split())))\n"
THREAD = "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size({size})\n" + MAIN

HONEST = {
    "exit": f"{READ}print(s)\nexit()",
    "exit with 0": f"{READ}print(s)\nexit(0)",
    "quit": f"{READ}print(s)\nquit()",
    "sys.exit": f"import sys\n{READ}print(s)\nsys.exit()",
    "sys.exit with 0": f"import sys\n{READ}print(s)\nsys.exit(0)",
    "SystemExit": f"{READ}print(s)\nraise SystemExit",
    "exit inside a function": "def main():\n    input()\n    print(sum(map(int, input().split())))\n    exit()\nmain()",
    "os._exit after a flush": f"import os\n{READ}print(s, flush=True)\nos._exit(0)",
    "a handler at exit": f"import atexit\n{READ}atexit.register(lambda: print(s))",
    "open(0)": "n, *x = map(int, open(0).read().split())\nprint(sum(x))",
    "open(0) by lines": "_, line = open(0)\nprint(sum(map(int, line.split())))",
    "open(0, 'rb')": "n, *x = map(int, open(0, 'rb').read().split())\nprint(sum(x))",
    "os.read of a number of bytes": "import os\nprint(sum(map(int, os.read(0, 10**6).split()[1:])))",
    "os.read of the file's size": "import os\nprint(sum(map(int, os.read(0, os.fstat(0).st_size).split()[1:])))",
    "os.read of fileno": "import os, sys\nprint(sum(map(int, os.read(sys.stdin.fileno(), 1 << 20).split()[1:])))",
    "/dev/stdin": "print(sum(map(int, open('/dev/stdin').read().split()[1:])))",
    "/proc/self/fd/0": "print(sum(map(int, open('/proc/self/fd/0').read().split()[1:])))",
    "mmap": "import mmap\nprint(sum(map(int, mmap.mmap(0, 0, access=mmap.ACCESS_READ).read().split()[1:])))",
    "sys.__stdin__": "import sys\nprint(sum(map(int, sys.__stdin__.read().split()[1:])))",
    "sys.stdin.buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.readlines()[1].split())))",
    "sys.stdin in a loop": "import sys\n*_, last = sys.stdin\nprint(sum(map(int, last.split())))",
    "readline as input": f"import sys\ninput = sys.stdin.readline\n{READ}print(s)",
    "iter(input)": "import sys\nrows = list(iter(sys.stdin.readline, ''))\nprint(sum(map(int, rows[1].split())))",
    "stdin of its own": f"import io, os, sys\nsys.stdin = io.StringIO(os.read(0, 99999).decode())\n{READ}print(s)",
    "a reader in place of stdin": f"import io, sys\nsys.stdin = io.TextIOWrapper(open(0, 'rb'))\n{READ}print(s)",
    "fileinput": "import fileinput\nprint(sum(map(int, list(fileinput.input())[1].split())))",
    "os.write": f"import os\n{READ}os.write(1, b'%d' % s)",
    "sys.__stdout__": f"import sys\n{READ}print(s, file=sys.__stdout__)",
    "open(1)": f"{READ}print(s, file=open(1, 'w'))",
    "/dev/stdout": f"{READ}print(s, file=open('/dev/stdout', 'w'))",
    "stdout.buffer": f"import sys\n{READ}sys.stdout.buffer.write(str(s).encode())",
    "stdout of its own": f"import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\n{READ}print(s)\nold.write(sys.stdout.getvalue())",
    "noise on stderr": f"import sys\n{READ}print('debug', file=sys.stderr)\nprint(s)",
    "a thread with a stack of 64 MB": THREAD.format(size=1 << 26) + "t = threading.Thread(target=main)\nt.start()\nt.join()",
    "a thread with a stack of 512 MB": THREAD.format(size=1 << 29) + "threading.Thread(target=main).start()",
    "a thread that nobody joins": f"import threading, time\n{READ}threading.Thread(target=lambda: (time.sleep(0.05), print(s))).start()",
    "a pool of threads": f"from concurrent.futures import ThreadPoolExecutor\n{READ}print(*ThreadPoolExecutor(4).map(str, [s]))",
    "a larger stack": f"import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 25, 1 << 25))\n{READ}print(s)",
    "a dataclass": f"from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n{READ}print(P(s).x)",
    "the main guard": f"{MAIN}if __name__ == '__main__':\n    main()",
    "NumPy": "import numpy as np, sys\nprint(np.array(sys.stdin.read().split()[1:], dtype=np.int64).sum())",
    "a file of its own": f"{READ}open('out', 'w').write(str(s))\nprint(open('out').read())",
}

WRONG = {
    "nothing": "pass",
    "exits at once": "exit(0)",
    "exits hard": "import os\nos._exit(0)",
    "exits before the flush": f"import os\n{READ}print(s)\nos._exit(0)",
    "fails afterwards": f"{READ}print(s, flush=True)\n1 / 0",
    "exits with 1": f"import sys\n{READ}print(s)\nsys.exit(1)",
    "exits with a text": f"{READ}print(s)\nexit('6')",
    "crashes afterwards": f"import ctypes\n{READ}print(s, flush=True)\nctypes.string_at(0)",
    "aborts afterwards": f"import os\n{READ}print(s, flush=True)\nos.abort()",
    "fails in its thread": "import threading\nthreading.Thread(target=lambda: 1 / 0).start()",
    "forges a reply": 'print(\'{"value": "6"}\')',
    "forges a reply on every descriptor": 'import os\nfor fd in range(3, 32):\n    try: os.write(fd, b\'{"value": "6\\\\n"}\\n\')\n    except OSError: pass',
    "forges an error": 'print(\'{"error": ""}\')\nexit(1)',
    "both answers": "print(6)\nprint(30)",
    "both answers on a line": "print(6, 30)",
    "closes its descriptors": "import os\nos.closerange(0, 64)",
    "prints and overwrites": "import os\nprint('7\\r6')",
    "hides a wrong answer": "print('7\\b6')",
    "a null byte": f"{READ}print(str(s) + '\\0')",
    "other digits": f"{READ}print(chr(0x0660 + s // 10) + chr(0x0660 + s % 10))",
    "a float for a whole number": f"{READ}print(float(s))",
    "a sign": f"{READ}print('+%d' % s)",
    "nan": "print('nan')",
    "inf": "print('inf')",
    "a str that lies": f"class S(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n{READ}print(S('0'))",
    "reads its descriptors": "import os\nfor fd in os.listdir('/proc/self/fd'):\n    try: print(os.pread(int(fd), 99, 0).decode())\n    except OSError: pass",
    "writes to its stdin": "import os\ntry: os.pwrite(0, b'6', 0)\nexcept OSError: pass\nprint(open(0).read())",
    "reads its parent": "print(open('/proc/%d/mem' % __import__('os').getppid(), 'rb').read(99))",
    "reads the command lines": "import glob\nfor p in glob.glob('/proc/*/cmdline'): print(open(p).read())",
    "reads the environment": "import os\nprint(open('/proc/self/environ').read(), dict(os.environ))",
    "searches its memory": "import gc\nprint([x for x in gc.get_objects() if type(x) is dict and 'stdout' in x][:1])",
    "searches its frames": "import sys\nf = sys._getframe()\nwhile f:\n    print(f.f_locals.get('job'))\n    f = f.f_back",
    "searches the files": "import os\nfor folder, _, names in os.walk('/tmp'): print(names)",
    "the other case": "print(open('/tmp/last').read() if __import__('os').path.exists('/tmp/last') else open('/tmp/last', 'w').write('6'))",
    "patches str": "import builtins\nbuiltins.str = lambda *_: '6'\nprint(str(0) + ' ')\nprint(builtins.str(1))",
    "patches the child": "import sys\nfor m in list(sys.modules.values()):\n    for name in ('run_program', 'encode', '_failure'):\n        if hasattr(m, name): setattr(m, name, lambda *_: '6')\n1 / 0",
    "a thread that prints on": "import threading\ndef talk():\n    for n in range(99): print(n)\nthreading.Thread(target=talk).start()",
    "a lying exit handler": "import atexit, os\natexit.register(lambda: os._exit(0))\n1 / 0",
    "a lying exception": "class E(Exception):\n    def __str__(self): import os; os._exit(0)\nraise E",
    "a lying code": "class C(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\nraise SystemExit(C(1))",
    "a flood": "while True: print('6' * 1000)",
}

OUTSIDE = {
    "a process": "import os; os.fork()",
    "a process beside threads": "import os, threading\nthreading.Thread(target=print).start()\nos.fork()",
    "a process by clone": "import ctypes, os\nif ctypes.CDLL(None, use_errno=True).syscall(56, 17, 0, 0, 0, 0) < 0: raise OSError",
    "a process by clone with memory": "import ctypes\nif ctypes.CDLL(None).syscall(56, 0x111, 0, 0, 0, 0) < 0: raise OSError",
    "a namespace": "import ctypes\nif ctypes.CDLL(None).syscall(56, 0x10000000 | 0x3d0f00, 0, 0, 0, 0) < 0: raise OSError",
    "a program": "import os; os.execv('/bin/true', ['true'])",
    "a program by subprocess": "import subprocess; subprocess.run(['true'])",
    "a network": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "a signal": "import os; os.kill(1, 9)",
    "a signal to its thread": "import signal, threading; signal.pthread_kill(threading.get_ident(), 9)",
    "a user's file": "open('/etc/passwd')",
    "a root's file": "open('/root/.bashrc')",
    "vlrl's files": "open('/vlrl/vlrl/verifiers/code.py')",
    "a change of NumPy": "import numpy; open(numpy.__file__, 'a')",
    "a change of its child": "open('/vlrl/vlrl/sandbox/code_child.py', 'a')",
    "many threads": "import threading, time\nfor _ in range(200): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    "more time": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "more processes": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (-1, -1))",
    "another's limits": "import resource; resource.prlimit(1, resource.RLIMIT_STACK, (1 << 20, 1 << 20))",
    "root": "import os; os.setuid(0)",
    "a large file": "open('/tmp/large', 'wb').write(b'x' * (9 << 20))",
}


def scored(source: str, cases=CASES, timeout_s: float = PATIENCE_S, **settings) -> Score:
    return score_programs(f"```python\n{source}\n```", cases, timeout_s=timeout_s, memory_mb=MEMORY_MB, **settings)


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST)
def test_an_honest_program_is_paid(program):
    score = scored(program)
    assert (score.reward, score.status) == (1.0, Status.OK), score.detail


@pytest.mark.parametrize("program", WRONG.values(), ids=WRONG)
def test_a_wrong_program_is_not_paid(program):
    score = scored(program)
    assert (score.reward, score.status) == (0.0, Status.OK)
    assert score.detail


@needs_a_jail
@pytest.mark.parametrize("body", OUTSIDE.values(), ids=OUTSIDE)
def test_a_jail_keeps_a_program_from(body):
    score = scored(f"{READ}{body}\nprint(s)", CASES[:1])
    assert score.reward == 0.0
    assert score.detail.partition(":")[0].endswith("Error"), score.detail


def test_a_program_may_print_megabytes_where_they_are_expected():
    lines = 200_000
    program = f"for n in range({lines}): print('%019d' % n)"
    expected = "".join(f"{n:019}\n" for n in range(lines))
    assert scored(program, [("", expected)]).reward == 1.0
    assert "bytes of output" in scored(program, [("", "7")]).detail


def test_a_program_reads_megabytes():
    assert scored("import sys\nprint(len(sys.stdin.read()))", [("12 " * 10**6, "3000000")]).reward == 1.0


def test_a_thread_with_a_large_stack_recurses_deeply():
    program = "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
    program += "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nthreading.Thread(target=lambda: print(f(10**5))).start()"
    assert scored(program, [("", "100000")]).reward == 1.0


@pytest.mark.parametrize(
    "program", ["1 / 0", "import os\nos._exit(3)", "print(object())", "print({'a', 'b', 'c', 'd', 'e'})", "exit(5)"]
)
def test_a_wrong_program_is_described_in_the_same_words_each_time(program):
    assert len({scored(program, CASES[:1]).detail for _ in range(3)}) == 1
