"""A trainer's end of the connection to one replica, which this process starts or reaches at an address."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from vlrl.rollout.engine import Request
from vlrl.rollout.protocol import TOKEN, LostError, Message, Packed, address_of, packed, prove, receive, send_packed
from vlrl.rollout.replica import PULSE_S, keep_alive
from vlrl.rollout.spawn import spawn_replica

_START_S = 900.0  # until a replica has loaded its model
_CALL_S = 60.0  # until one that went away can be reached again
_END_S = 5.0


@dataclass(eq=False)
class Connection:
    """One replica. place: its address, "" for a process that this one starts; devices: the GPUs of such a process.

    requests: of the current batch, of which it has sampled `sampled`. unanswered: how many messages with requests it has not
    finished. doing: what it does between batches.
    """

    number: int
    place: str
    devices: Sequence[str]
    opened: Mapping[str, Any]
    silent_s: float
    link: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    requests: list[Request] = field(default_factory=list)
    sampled: int = 0
    unanswered: int = 0
    heard: float = 0.0
    losses: int = 0
    doing: str = "starting"

    @property
    def name(self) -> str:
        process = self.process  # the status is read in another thread
        where = f"at {self.place}" if self.place else f"process {process.pid}" if process else "not started"
        return f"engine replica {self.number} ({where})"

    def report(self) -> str:
        """What it does now, as a line of `vlrl status`."""
        if not self.unanswered:
            return f"{self.name}: {self.doing}"
        silent = time.monotonic() - self.heard
        return f"{self.name}: sampled {self.sampled} of {len(self.requests)} responses; last heard from {silent:.0f} s ago"

    def connect(self) -> None:
        """Starts the process, or calls the address. Raises LostError."""
        if not self.place:
            self.link, self.process = spawn_replica({"CUDA_VISIBLE_DEVICES": ",".join(self.devices)} if self.devices else {})
            return
        deadline, refusal = time.monotonic() + _CALL_S, ""
        while time.monotonic() < deadline:
            try:
                self.link = socket.create_connection(address_of(self.place), timeout=self.silent_s)
                keep_alive(self.link)
                if not prove(self.link, os.environ[TOKEN], answers=True):
                    raise ValueError(f"{self.name} has another {TOKEN}; give both sides the same")
                receive(self.link)  # its welcome
                return
            except OSError as error:
                refusal = str(error)
                time.sleep(PULSE_S)
        raise LostError(f"no answer in {_CALL_S:g} s ({refusal})")

    def open(self) -> Mapping[str, Any]:
        """Has it start its engine. Returns the engine's slots, and as version 0 if it has the model's weights, -1 if others."""
        assert self.link
        self.link.settimeout(_START_S)
        self.send(Message("open", self.opened))
        opened = self.wait()
        self.link.settimeout(self.silent_s)
        self.doing = "waiting for work"
        return opened

    def send(self, message: Message | Packed) -> None:
        if self.link is None:
            raise LostError("it is not connected")
        send_packed(self.link, message if isinstance(message, Packed) else packed(message))

    def wait(self) -> Mapping[str, Any]:
        """The fields of the answer. Raises LostError, or RuntimeError if it failed."""
        while (message := self.receive()).kind != "done":
            pass
        return message.fields

    def receive(self) -> Message:
        assert self.link
        message = receive(self.link)
        if message.kind == "failed":
            raise RuntimeError(f"{self.name}: {message.fields['sentence']}")
        return message

    def drop(self) -> None:
        """Closes the connection and ends the process, if it is this one's."""
        self.doing = "starting again" if self.losses else "ended"
        if self.link:
            self.link.close()
            self.link = None
        if self.process:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.1 if self.losses else _END_S)
            self.process.kill()
            self.process.wait()
            self.process = None
