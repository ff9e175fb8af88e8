"""An engine in a process of its own: it samples and takes weights for one trainer's rank at a time, over a connection.

It is vLLM as vlrl.rollout.vllm_local runs it in the training process, with the same requests in the same order, so it samples
the same bits. (vLLM's own server admits requests as they come: which of them share a batch is chance, and so are last bits.)
A run starts its replicas itself, and they end with it. A replica that listens on an address (`vlrl replica`) keeps its engine and
waits for the next trainer.
"""

import logging
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import torch
from torch import Tensor

from vlrl.config import EngineConfig, LoraConfig
from vlrl.distributed.ranks import Ranks, join_ranks
from vlrl.models.config_json import family_of
from vlrl.rollout.direct import LOOK_S, Group, in_background, own_device
from vlrl.rollout.followers import Followers
from vlrl.rollout.protocol import LostError, Message, prove, receive, requests_of, rollout_message, send

logger = logging.getLogger(__name__)

PULSE_S = 1.0
"""A replica at work says so this often."""
_GONE_S = 60  # after which a trainer whose host vanished counts as gone


class Replica:
    """The engine, once a trainer has said which, and what it answers to messages. used: whether it ever got other weights."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._opened: Mapping[str, Any] = {}
        self._used = False
        self._followers: Followers | None = None
        """The other processes of a tensor-parallel engine, if this is the first."""
        self._group: Group | None = None
        """With the trainer, if weights come from device to device."""

    def serve(self, connection: socket.socket, *, gone: Callable[[], None] = lambda: None) -> None:
        """Answers one trainer's messages until it is gone. gone: called if that happens in the middle of an answer."""
        session = _Session(connection, gone, self._pass_on, self._all_got)
        try:
            while True:
                message = session.receive()
                session.busy.set()
                try:
                    fields = self._answer(message, session)
                    self._wait_for_members(message)
                except LostError:
                    self._wait_for_members(message)
                    raise
                except Exception as error:
                    self._wait_for_members(message, failed=True)
                    logger.exception("%s failed", message.kind)
                    session.send(Message("failed", {"sentence": str(error) or type(error).__name__}))
                else:
                    session.send(Message("done", fields))
                if not self._opened.get("member"):  # a member of a tensor-parallel engine always says that it lives
                    session.busy.clear()
        except LostError:
            return
        finally:
            session.close()
            if self._group:
                self._group.abort()
                self._group = None

    def _pass_on(self, message: Message) -> None:
        if self._followers and message.kind != "open":
            self._followers.send(message)

    def _wait_for_members(self, message: Message, *, failed: bool = False) -> None:
        if self._followers and message.kind != "open":
            self._followers.wait(failed=failed)

    def _all_got(self) -> bool | None:
        return self._followers.all_got() if self._followers else True

    def _answer(self, message: Message, session: "_Session") -> dict[str, Any]:
        match message.kind:
            case "open":
                return self._open(message.fields)
            case "generate":
                self._generate(message, session)
            case "weights":
                self._used = True
                self._engine.load_weights(session.tensors(self._group))
            case "join":
                self._join(message.fields, session)
            case "adapter":
                self._used = True
                self._load_adapter(message)
            case "differing":
                return {"names": self._engine.differing_weights(session.tensors())}
            case "version":
                self._engine.version = message.fields["version"]
            case "reset_caches":
                self._engine.reset_caches()
            case other:
                raise ValueError(f"an engine knows no message {other!r}; install the same version of vlrl on both sides")
        return {}

    def _open(self, opened: Mapping[str, Any]) -> dict[str, Any]:
        """Starts the engine, or keeps the one that runs if it was started with the same settings."""
        if self._engine is None:
            members, begun = opened["engine"]["tensor_parallel"], {"member": 0, "port": _free_port(), **opened}
            if begun["member"] == 0:
                self._followers = Followers(begun, members)
            self._engine = _start(begun)
            if self._followers:
                self._followers.wait()
            self._opened = opened
        if opened != self._opened:
            names = [name for name in opened if opened[name] != self._opened.get(name)]
            raise ValueError(f"it runs with other settings ({', '.join(names)}); end it and start it again")
        return {"version": -1 if self._used else 0, "slots": self._engine.slots}

    def _generate(self, message: Message, session: "_Session") -> None:
        if (asked := message.fields["version"]) != self._engine.version:
            raise RuntimeError(f"it holds weights of version {self._engine.version}, and was asked to sample with {asked}")
        rollouts = self._engine.generate(requests_of(message))
        try:
            for rollout in rollouts:
                session.send(rollout_message(rollout))
        except LostError:
            for _ in rollouts if self._followers else ():  # the others sample to the end, and can't do so alone
                pass
            raise

    def _join(self, fields: Mapping[str, Any], session: "_Session") -> None:
        number = fields["number"] + self._opened.get("member", 0)
        group = Group(own_device())
        work = in_background(lambda: group.connect(fields["meeting"], number, address=fields["address"]))
        self._group = group if session.takes_part(work, group) else None

    def _load_adapter(self, message: Message) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in message.tensors.items():
                (Path(folder) / Path(name).name).write_bytes(content.numpy().tobytes())
            self._engine.load_adapter(Path(folder))


def _start(opened: Mapping[str, Any]) -> Any:
    from vlrl.rollout.vllm_local import VllmEngine

    if opened["threads"]:
        torch.set_num_threads(opened["threads"])
    # Where vLLM's executor in this process looks for its place; a launcher's store is the trainers'.
    member, members = str(opened["member"]), str(opened["engine"]["tensor_parallel"])
    os.environ |= {"RANK": member, "WORLD_SIZE": members, "LOCAL_RANK": member, "LOCAL_WORLD_SIZE": members}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(opened["port"])}
    for name in [name for name in os.environ if name.startswith("TORCHELASTIC_")]:
        del os.environ[name]
    return VllmEngine(
        EngineConfig(**opened["engine"]),
        opened["model"],
        dtype=opened["dtype"],
        seed=opened["seed"],
        end_tokens=opened["end_tokens"],
        banned=opened["banned"],
        merge_size=opened["merge_size"],
        family=family_of(opened["model_type"]),
        ranks=join_ranks() if int(members) > 1 else Ranks(0, 1, 0),
        tells_routes=opened["tells_routes"],
        lora=LoraConfig(**opened["lora"]) if opened["lora"] else None,
    )


class _Session:
    """A connection while a trainer has it. busy: a message is being answered, and a thread says once a second that it is."""

    def __init__(
        self,
        connection: socket.socket,
        gone: Callable[[], None],
        pass_on: Callable[[Message], None],
        all_got: Callable[[], bool | None],
    ) -> None:
        self.busy = Event()
        self._gone = gone
        self._pass_on = pass_on
        self._all_got = all_got
        self._connection = connection
        self._lock = Lock()
        self._over = Event()
        Thread(target=self._pulse, name="pulse", daemon=True).start()

    def send(self, message: Message) -> None:
        with self._lock:
            send(self._connection, message)

    def receive(self) -> Message:
        """The next message, which the other processes of a tensor-parallel engine get as well."""
        message = receive(self._connection)
        self._pass_on(message)
        return message

    def tensors(self, group: Group | None = None) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the next messages, up to the one that says it was the last. group: brings those that are announced."""
        try:
            while (message := self.receive()).kind == "bucket":
                announced = message.fields.get("announced")
                yield from (message.tensors if announced is None else self._received(announced, group)).items()
        except LostError:
            self._pass_on(Message("end"))
            raise

    def _received(self, announced: Any, group: Group | None) -> dict[str, Tensor]:
        """The announced tensors; none if not all replicas got them, after which they come in a message."""
        assert group, "the trainer announces tensors to a replica that is in no group"
        work = in_background(lambda: group.receive(announced))
        return work.result() if self.takes_part(work, group) else {}

    def takes_part(self, work: "Future[Any]", group: Group) -> bool:
        """Whether the trainer says that all it asked have done their work, this process too. See vlrl.rollout.direct_sender.

        Ends the group if not.
        """
        agreed = False
        try:
            agreed = self._agrees(work)
        finally:
            if not agreed:
                group.abort()
        return agreed

    def _agrees(self, work: "Future[Any]") -> bool:
        said = have = None
        try:
            while not said and not select.select([self._connection], [], [], 0)[0]:
                wait([work], timeout=LOOK_S)
                if work.done() and (error := work.exception()):
                    said = Message("lacks", {"sentence": str(error) or type(error).__name__})
                elif work.done() and (have := self._all_got()) is not None:
                    said = Message("got") if have else Message("lacks", {"sentence": "a member of the engine lacks it"})
                elif work.done():
                    time.sleep(0.01)
                if said:
                    self.send(said)
            agreed = self.receive().kind == "agreed"
        except LostError:
            self._pass_on(Message("abandon"))
            self._take_answers(have)
            raise
        if not agreed:
            if not said:
                self.send(Message("lacks", {"sentence": "it was abandoned"}))
            self._take_answers(have)
        return agreed

    def _take_answers(self, have: bool | None) -> None:
        """Takes one answer of each other member of the engine, unless they were taken. have: what they said, if so."""
        while have is None:
            have = self._all_got()
            time.sleep(LOOK_S if have is None else 0)

    def close(self) -> None:
        self._over.set()
        self._connection.close()

    def _pulse(self) -> None:
        while not self._over.wait(PULSE_S):
            if self.busy.is_set():
                try:
                    self.send(Message("pulse"))
                except LostError:
                    self._gone()
                    return


def serve_one(connection: socket.socket) -> None:
    """Serves the trainer that started this process, which ends with it, whatever it is doing."""
    Replica().serve(connection, gone=lambda: os._exit(1))


def serve_address(address: tuple[str, int], token: str, *, ready: Callable[[int], None]) -> None:
    """Serves one trainer after another on a private address, for ever. ready: called with the port once it listens."""
    replica = Replica()
    with socket.create_server(address) as server:
        ready(server.getsockname()[1])
        while True:
            connection, (host, *_) = server.accept()
            keep_alive(connection)
            try:
                if prove(connection, token, answers=False):
                    send(connection, Message("welcome"))
                    replica.serve(connection)
                else:
                    logger.warning("refused %s, which does not know the token", host)
            except LostError as error:
                logger.warning("refused %s: %s", host, error)
            finally:
                connection.close()


def keep_alive(connection: socket.socket) -> None:
    """Has the kernel notice that the other host is gone, within about a minute, even if nothing is sent."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _GONE_S // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _GONE_S // 6)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_S * 1000)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
