"""The child's side of `verifiers.code`: how it confines itself, and the plain data that crosses between the two.

Scalars cross as JSON's own; a container as {its type's name: its items}, so that a tuple stays a tuple; the standard library's
dicts as dicts. A value whose type is not exactly one of these does not cross: a subclass may answer any comparison as it likes.

A child starts for every solution, and half of its start was once the imports of json and typing, which bring in re. So it reads
and writes JSON by the json package's own C functions, which need none of it.
"""

from __future__ import annotations

import ctypes
import io
import os
import resource
import sys
from _json import encode_basestring_ascii, make_encoder, make_scanner
from binascii import a2b_base64
from collections import Counter, OrderedDict, defaultdict

from vlrl.sandbox.child_stdio import take_pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_OUTPUT = 1 << 19  # bytes of a program's output; as JSON it must stay below a line's 1 MiB
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_SCALARS = (type(None), bool, int, float, str)
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_DICTS = (dict, Counter, OrderedDict, defaultdict)


def encode(value: Any) -> Any:
    """Plain data as JSON data. TypeError where the value, or one inside it, is of another type.

    >>> encode({1: (True, None)})
    {'dict': [[1, {'tuple': [True, None]}]]}
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind in _DICTS:
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if kind in _SEQUENCES.values():
        return {kind.__name__: [encode(item) for item in value]}
    raise TypeError(f"{kind.__name__} is not plain data")


def decode(data: Any) -> Any:
    """The value that `encode` made into `data`."""
    if type(data) in _SCALARS:
        return data
    ((kind, items),) = data.items()
    if kind == "dict":
        return {decode(key): decode(item) for key, item in items}
    if kind == "complex":
        return complex(*items)
    return _SEQUENCES[kind](decode(item) for item in items)


def confine(limits: dict[str, int], filter: str, uid: int | None = None) -> None:
    """Gives up rights for good. limits: "RLIMIT_*" to its value; filter: seccomp's program in base64; uid: whom to become.

    OSError where the system does not do as it is told.
    """
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    program = a2b_base64(filter)
    libc = ctypes.CDLL(None, use_errno=True)
    rules = _Program(len(program) // 8, ctypes.cast(ctypes.create_string_buffer(program), ctypes.c_void_p))
    nothing = ctypes.c_ulong(0)
    steps = (
        (_PR_SET_NO_NEW_PRIVS, 1, nothing),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(rules)),
    )
    for option, argument, rest in steps:
        if libc.prctl(option, ctypes.c_ulong(argument), rest, nothing, nothing):
            raise OSError(ctypes.get_errno(), f"prctl {option} failed")


class _Program(ctypes.Structure):
    """struct sock_fprog: the number of instructions, of 8 bytes each, and where they are."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


class _Read:
    """How json.loads reads, as its C scanner wants to be told."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: dict[str, str] = {}


_scan = make_scanner(_Read)  # type: ignore[arg-type]  # it takes whatever has these attributes


def _loads(line: bytes) -> Any:
    return _scan(line.decode(), 0)[0]


def _dumps(value: Any) -> bytes:
    pieces = make_encoder({}, encode, encode_basestring_ascii, None, ": ", ", ", False, False, True)(value, 0)
    return "".join(pieces).encode()


def main() -> None:
    """Reads a job, {confine, source} and entry_point or stdin; confines itself and says "ready", or why it can't.

    With an entry_point it then answers each line {args, kwargs} by {"value"} or {"error"}, until there are no more; a source
    that does not define it gives one {"error"} and ends. With stdin it runs the source as a program and gives what it printed.
    """
    requests, replies = take_pipes(silent=True)
    job = _loads(requests.readline())

    def say(reply: Any) -> None:
        replies.write(_dumps(reply) + b"\n")
        replies.flush()

    try:
        confine(**job["confine"])
    except Exception as error:
        say(f"it cannot be confined ({type(error).__name__}: {error})")
        os._exit(1)
    say("ready")
    try:
        if "stdin" in job:
            say({"value": run_program(job["source"], job["stdin"])})
            os._exit(0)
        namespace = {"__name__": "solution"}
        exec(compile(job["source"], "solution.py", "exec"), namespace)
        function: Any = namespace[job["entry_point"]]
    except BaseException as error:
        say(_failure(error))
        os._exit(1)
    for line in requests:
        call = _loads(line)
        try:
            say({"value": encode(function(*decode(call["args"]), **decode(call["kwargs"])))})
        except BaseException as error:
            say(_failure(error))
    os._exit(0)  # threads and exit handlers of the solution have no say


def run_program(source: str, stdin: str) -> str:
    """What the program prints, up to MAX_OUTPUT bytes; sys.exit ends it well. What else it raises is raised."""
    written = _Capped()
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(written, encoding="utf-8", write_through=True)
    try:
        exec(compile(source, "solution.py", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    return written.getvalue().decode(errors="replace")


class _Capped(io.BytesIO):
    def write(self, content: Any) -> int:
        if self.tell() + len(content) > MAX_OUTPUT:
            raise OSError(f"more than {MAX_OUTPUT} bytes of output")
        return super().write(content)


def _failure(error: BaseException) -> dict[str, str]:
    try:
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    except BaseException:  # its text is the solution's code too
        return {"error": type(error).__name__}
