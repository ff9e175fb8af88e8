"""The first thing that a child process of vlrl.sandbox.processes does. Few imports: a child is started for every solution."""

import ctypes
import os
from io import BufferedReader, BufferedWriter

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


def take_pipes(*, silent: bool) -> tuple[BufferedReader, BufferedWriter]:
    """What a child does first: (requests, replies), its stdin and stdout moved to private descriptors.

    Foreign code that reads then finds an empty input, and what it prints goes to stderr, or nowhere if silent.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    if silent:
        os.dup2(nowhere, 2)
    os.dup2(2, 1)
    os.close(nowhere)
    return requests, replies
