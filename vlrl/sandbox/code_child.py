"""Runs a solution in the child process of `vlrl.verifiers.code`: confines itself, then exchanges plain data with the parent.

Scalars are sent as JSON scalars. A container is sent as {type name: items}, so that a tuple stays a tuple; the standard library's
dict classes are sent as dicts. Any other type is refused, because a subclass could fake the result of a comparison.

Every solution starts a child, and importing json and typing (with re) took half of its start. So the child uses the json
package's C functions directly, without these imports.
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

MAX_OUTPUT = 1 << 19  # bytes of a program's output; its JSON must fit into a line of 1 MiB
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_SCALARS = (type(None), bool, int, float, str)
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_DICTS = (dict, Counter, OrderedDict, defaultdict)


def encode(value: Any) -> Any:
    """Converts plain data to JSON data. Raises TypeError if the value, or a value inside it, has another type.

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
    """The inverse of `encode`."""
    if type(data) in _SCALARS:
        return data
    ((kind, items),) = data.items()
    if kind == "dict":
        return {decode(key): decode(item) for key, item in items}
    if kind == "complex":
        return complex(*items)
    return _SEQUENCES[kind](decode(item) for item in items)


def confine(limits: dict[str, int], filter: str, uid: int | None = None) -> None:
    """Gives up rights permanently. limits: values by "RLIMIT_*" name; filter: seccomp program in base64; uid: the user to become.

    Raises OSError if a system call fails.
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
    """struct sock_fprog: the number of instructions, of 8 bytes each, and a pointer to them."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


class _ScannerOptions:
    """json.loads's defaults, as the attributes that the C scanner reads."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: dict[str, str] = {}


_scan = make_scanner(_ScannerOptions)  # type: ignore[arg-type]  # it accepts any object with these attributes


def _loads(line: bytes) -> Any:
    return _scan(line.decode(), 0)[0]


def _dumps(value: Any) -> bytes:
    pieces = make_encoder({}, encode, encode_basestring_ascii, None, ": ", ", ", False, False, True)(value, 0)
    return "".join(pieces).encode()


def main() -> None:
    """Reads a job, {confine, source} with entry_point or stdin; confines itself and replies "ready", or the reason for a failure.

    With an entry_point, it answers each line {args, kwargs} with {"value"} or {"error"} until the input ends. If the source does
    not define the entry point, it replies one {"error"} and exits. With stdin, it runs the source as a program and replies its
    output.
    """
    requests, replies = take_pipes(silent=True)
    job = _loads(requests.readline())

    def reply(content: Any) -> None:
        replies.write(_dumps(content) + b"\n")
        replies.flush()

    try:
        confine(**job["confine"])
    except Exception as error:
        reply(f"it cannot confine itself ({type(error).__name__}: {error})")
        os._exit(1)
    reply("ready")
    try:
        if "stdin" in job:
            reply({"value": run_program(job["source"], job["stdin"])})
            os._exit(0)
        namespace = {"__name__": "solution"}
        exec(compile(job["source"], "solution.py", "exec"), namespace)
        function: Any = namespace[job["entry_point"]]
    except BaseException as error:
        reply(_failure(error))
        os._exit(1)
    for line in requests:
        call = _loads(line)
        try:
            reply({"value": encode(function(*decode(call["args"]), **decode(call["kwargs"])))})
        except BaseException as error:
            reply(_failure(error))
    os._exit(0)  # without waiting for the solution's threads and exit handlers


def run_program(source: str, stdin: str) -> str:
    """Runs the program and returns its output. sys.exit with 0 or None ends it normally; other exceptions are raised.

    More than MAX_OUTPUT bytes of output raise OSError.
    """
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
    except BaseException:  # the solution's code may also compute the error's text
        return {"error": type(error).__name__}
