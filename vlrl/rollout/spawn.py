"""Starts engines in processes that end with this one, over connections that have no address which others could reach."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping


def spawn_replica(environment: Mapping[str, str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A process that serves one connection, and this end of it. environment: what its own has beside this process's."""
    own, its = socket.socketpair()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    with its:
        command = [sys.executable, "-m", "vlrl.cli", "replica", "--connection", str(its.fileno())]
        # A session of its own: Ctrl-C is for the trainer, which lets it end its work.
        process = subprocess.Popen(command, env=env, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    return own, process
