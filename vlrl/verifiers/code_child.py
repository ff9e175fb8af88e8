"""The child's side of `verifiers.code`, and the plain data that crosses between the two.

Scalars cross as JSON's own; a container as {its type's name: its items}, so that a tuple stays a tuple. A value whose type
is not exactly one of these does not cross: a subclass may answer any comparison as it likes.
"""

import json
import os
from typing import Any

from vlrl.pipes import take_pipes

_SCALARS = (type(None), bool, int, float, str)
_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set}


def encode(value: Any) -> Any:
    """Plain data as JSON data. TypeError where the value, or one inside it, is of another type.

    >>> encode({1: (True, None)})
    {'dict': [[1, {'tuple': [True, None]}]]}
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
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
    return _SEQUENCES[kind](decode(item) for item in items)


def main() -> None:
    """Reads one job, {source, entry_point, calls}; says "ready"; then each call's {"value"} or {"error"}; ends.

    A source that does not define the entry point gives one {"error"} and ends too.
    """
    requests, replies = take_pipes(silent=True)
    job = json.loads(requests.readline())
    requests.close()

    def say(reply: Any) -> None:
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()

    def fail(error: BaseException) -> None:
        say({"error": f"{type(error).__name__}: {error}"[:200]})

    say("ready")
    namespace = {"__name__": "solution"}
    try:
        exec(compile(job["source"], "solution.py", "exec"), namespace)
        function: Any = namespace[job["entry_point"]]
    except BaseException as error:
        fail(error)
        os._exit(1)
    for call in job["calls"]:
        try:
            say({"value": encode(function(*decode(call)))})
        except BaseException as error:
            fail(error)
    os._exit(0)  # threads and exit handlers of the solution have no say
