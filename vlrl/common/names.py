"""The names that a task may have. They become files, folders and parts of metric names, so all commands use this one rule."""

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RESERVED = {
    "mean": "the name of the average in the log",
    r"minibatch_[0-9]+": "the name of a mini-batch in the log",  # policy/entropy/minibatch_1 covers all tasks
}


def name_fault(name: str) -> str:
    """Why a task cannot have the name; empty if it can.

    >>> name_fault("grid_max"), name_fault("a/b")
    ('', "a task cannot be called 'a/b'; use letters, digits, _ and -, with a letter or digit first, as in shape_counting")
    >>> name_fault("mean")
    'a task cannot be called mean, which is the name of the average in the log; choose another name'
    """
    for pattern, use in _RESERVED.items():
        if re.fullmatch(pattern, name):
            return f"a task cannot be called {name}, which is {use}; choose another name"
    if _NAME.fullmatch(name):
        return ""
    return f"a task cannot be called {name!r}; use letters, digits, _ and -, with a letter or digit first, as in shape_counting"
