"""`vlrl replica`: an engine in a process of its own, for runs that sample on other hosts."""

import os
import socket
from typing import Annotated

import typer

from vlrl.cli.shared import quieten, sentences


def replica(
    listen: Annotated[str, typer.Option(help="HOST:PORT, an address of a private network; port 0 takes a free one.")] = "",
    connection: Annotated[int | None, typer.Option(hidden=True, help="An open socket, of a run that starts its own.")] = None,
) -> None:
    """Runs an engine that samples for a run on another host, whose `rollout.hosts` names this address.

    VLRL_TOKEN must hold the same secret here and there. It serves one rank of one run at a time, and keeps its engine when that
    rank ends, so that a run which resumes finds it ready. What it says is not encrypted: use a private network.
    """
    with sentences():
        quieten()
        from vlrl.rollout.protocol import TOKEN, address_of
        from vlrl.rollout.replica import serve_address, serve_one

        if connection is not None:
            serve_one(socket.socket(fileno=connection))
            return
        if not listen:
            raise ValueError("give --listen HOST:PORT, an address at which the run can reach this machine")
        if not (token := os.environ.get(TOKEN)):
            raise ValueError(f"set the environment variable {TOKEN} to a secret that the run knows, too")
        address = address_of(listen)
        serve_address(address, token, ready=lambda port: print(f"An engine listens on {address[0]}:{port}", flush=True))
