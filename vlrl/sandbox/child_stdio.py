"""Moves a child process's stdin and stdout to private descriptors. Few imports, because every solution starts a child."""

import ctypes
import os
from io import BufferedReader, BufferedWriter

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


def take_pipes(*, silent: bool) -> tuple[BufferedReader, BufferedWriter]:
    """Returns (requests, replies): the child's stdin and stdout, moved to private descriptors. A child calls this first.

    Afterwards foreign code reads an empty stdin, and its output goes to stderr, or is discarded if `silent` is set.
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
