"""Runs a solution in the child process of `vlrl.verifiers.solutions`: confines itself, then exchanges plain data with the parent.

Every solution starts a child, and importing json and typing (with re) took half of its start. So the child uses the json
package's C functions directly, without these imports.
"""

import builtins
import ctypes
import os
import resource
import sys
from _json import encode_basestring_ascii, make_encoder, make_scanner
from binascii import a2b_base64

from vlrl.sandbox.child_stdio import take_pipes
from vlrl.sandbox.plain_data import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_TYPING = ("Any", "Callable", "Dict", "Iterable", "List", "Optional", "Sequence", "Set", "Tuple", "Union")
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


def confine(limits: dict[str, int], filter: str, uid: int | None = None) -> None:
    """Gives up rights permanently. limits: values by "RLIMIT_*" name; filter: seccomp program in base64; uid: the user to become.

    Raises OSError if a system call fails.
    """
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
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


def _loads(line: bytes) -> "Any":
    return _scan(line.decode(), 0)[0]


def _dumps(value: "Any") -> bytes:
    pieces = make_encoder({}, encode, encode_basestring_ascii, None, ": ", ", ", False, False, True)(value, 0)
    return "".join(pieces).encode()


def main() -> None:
    """Reads a job, {confine, source, stdin}; confines itself and replies "ready", or the reason for a failure.

    stdin is the input of a program, which then runs with real descriptors 0 and 1, or None for a solution that answers calls.
    """
    requests, replies = take_pipes(silent=True)
    job = _loads(requests.readline())

    def reply(content: "Any") -> None:
        replies.write(_dumps(content) + b"\n")
        replies.flush()

    try:
        if job["stdin"] is not None:
            _give_descriptors(job["stdin"], replies.fileno())
        confine(**job["confine"])
    except Exception as error:
        reply(f"it cannot confine itself ({type(error).__name__}: {error})")
        os._exit(1)
    reply("ready")
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # of the site module, which is not imported
    if job["stdin"] is not None:
        run_program(job["source"], reply)
    else:
        serve_calls(job["source"], requests, reply)


def serve_calls(source: str, requests: "Iterable[bytes]", reply: "Callable[[Any], None]") -> None:
    """Runs the source, then answers each request until the input ends, with {"value"}, {"object"}, {"method"} or {"error"}.

    A request is {of, name, args, kwargs, is_class}. of: an expression, such as a function's name, or the number of an object;
    name: one of its attributes, or None. With args None, the attribute's value is the answer. A new object is sent as its number
    if `is_class` is set. If the source cannot run, the reply is one {"error"}, and the process exits.
    """
    if any(f"{name}[" in source for name in _TYPING):  # functions are often written without these imports
        import typing

        vars(builtins).update({name: getattr(typing, name) for name in _TYPING})
    try:
        namespace = _run(source, "solution")
    except BaseException as error:
        reply(_failure(error))
        os._exit(1)
    targets: dict[Any, Any] = {}
    for line in requests:
        request = _loads(line)
        try:
            if request["of"] not in targets:
                targets[request["of"]] = _named(namespace, request["of"])
            target = targets[request["of"]]
            if request["name"] is not None:
                target = getattr(target, request["name"])
            if request["args"] is None:
                reply({"method": True} if callable(target) else {"value": encode(target)})
                continue
            result = target(*decode(request["args"]), **decode(request["kwargs"]))
            if request["is_class"] and isinstance(target, type):
                targets[len(targets)] = result
                reply({"object": len(targets) - 1})
            else:
                reply({"value": encode(result)})
        except BaseException as error:
            reply(_failure(error))
    os._exit(0)  # without waiting for the solution's threads and exit handlers


def _named(namespace: "dict[str, Any]", expression: str) -> "Any":
    """The value of `add`, `Solution().add`, or of `add` as a method of the class Solution. Raises KeyError if there is none."""
    root = expression.partition("(")[0].partition(".")[0]
    if root not in namespace and hasattr(namespace.get("Solution"), root):
        return getattr(namespace["Solution"](), expression)
    namespace[root]  # a name of Python's own, such as sum, is not the solution's
    return eval(expression, namespace)


def run_program(source: str, reply: "Callable[[Any], None]") -> None:
    """Runs the program as the main module. Afterwards Python ends as usual: it waits for threads and flushes the output.

    A program that fails, or exits with another code than 0, ends here, with exit code 1 and a last line {"error"}.
    """
    try:
        _run(source, "__main__")
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return
        try:
            os.write(1, b"\n")
            reply(_failure(error))
        finally:
            os._exit(1)


def _give_descriptors(stdin: str, output: int) -> None:
    """Makes the text descriptor 0, as a file in memory, and the pipe to the parent descriptor 1."""
    file = os.memfd_create("stdin")
    with os.fdopen(file, "wb", closefd=False) as writer:
        writer.write(stdin.encode())
    os.lseek(file, 0, os.SEEK_SET)
    os.dup2(file, 0)
    os.close(file)
    os.dup2(output, 1)
    os.fchmod(1, 0o666)  # so that a program may open /dev/stdout after it became another user
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _run(source: str, name: str) -> "dict[str, Any]":
    """Runs the source as a module of its own, where dataclasses find its names; returns its namespace."""
    module = type(sys)(name)
    sys.modules[name] = module
    exec(compile(source, "solution.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _failure(error: BaseException) -> dict[str, str]:
    try:
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    except BaseException:  # the solution's code may also compute the error's text
        return {"error": type(error).__name__}
