"""Messages between a trainer's rank and an engine in another process: JSON and tensors, over a socket.

A message is a length, a JSON object and the bytes of its tensors; processes of one machine share the memory of large ones.
Nothing in it can run code, so whoever reaches the port can at most send numbers; and nobody is heard there who does not know the
run's token, which itself never travels (an HMAC of a random challenge does). The content is not encrypted: an engine listens on
loopback and private addresses alone.
"""

import hmac
import ipaddress
import json
import secrets
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlrl.models.processor import EncodedPrompt
from vlrl.rollout.engine import Decoding, Request
from vlrl.rollout.shared_bytes import SharedBytes, received
from vlrl.types import Rollout

TOKEN = "VLRL_TOKEN"
"""The environment variable with the secret that a trainer and the replicas it attaches to share."""

_LENGTHS = struct.Struct("!IQ?")  # of the JSON, and of the tensors' bytes; whether those come as memory to share
_SHARED = 1 << 20  # bytes of tensors from which on they do, between processes of a machine
_MOST_JSON = 1 << 28
_HANDSHAKE_S = 5.0
_PROOF_BYTES = 32


class LostError(ConnectionError):
    """The other process is gone, or has been silent for too long."""


@dataclass(frozen=True, slots=True)
class Message:
    """kind: what it asks or says. fields: JSON values. tensors: by name, on the CPU."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Packed:
    """A message as it is sent: to any number of processes, and again to one that is lost. content: the bytes of its tensors."""

    head: bytes
    content: bytearray | SharedBytes
    size: int


def packed(message: Message) -> Packed:
    """The message, ready to be sent."""
    named = {name: tensor.detach().to("cpu").contiguous() for name, tensor in message.tensors.items()}
    kinds = [[name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in named.items()]
    head = json.dumps({"kind": message.kind, "fields": message.fields, "tensors": kinds}).encode()
    size = sum(tensor.nbytes for tensor in named.values())
    content = SharedBytes(size) if size >= _SHARED else bytearray(size)
    memory, start = content.view if isinstance(content, SharedBytes) else content, 0
    for tensor in named.values():
        if tensor.nbytes:
            place = torch.frombuffer(memory, dtype=torch.uint8, count=tensor.nbytes, offset=start)
            place.copy_(tensor.reshape(-1).view(torch.uint8))
            start += tensor.nbytes
    return Packed(head, content, size)


def send(connection: socket.socket, message: Message) -> None:
    """Raises LostError if the other side is gone, or takes no more bytes for as long as the socket's timeout."""
    send_packed(connection, packed(message))


def send_packed(connection: socket.socket, message: Packed) -> None:
    """Sends what `packed` returned; see `send`. A process of this machine gets large content as memory to share."""
    content = message.content
    handed = isinstance(content, SharedBytes) and connection.family == socket.AF_UNIX
    lengths = _LENGTHS.pack(len(message.head), message.size, handed)
    try:
        if isinstance(content, SharedBytes) and handed:
            socket.send_fds(connection, [lengths], [content.file.fileno()])
            connection.sendall(message.head)
        else:
            connection.sendall(lengths + message.head)
            connection.sendall(content.view if isinstance(content, SharedBytes) else content)
    except OSError as error:
        raise LostError(f"it takes no message ({error})") from None


def receive(connection: socket.socket) -> Message:
    """The next message. Raises LostError if the other side is gone or sends nothing for as long as the socket's timeout."""
    lengths, descriptors = _lengths(connection)
    head_size, size, handed = _LENGTHS.unpack(lengths)
    if head_size > _MOST_JSON:
        raise LostError(f"it announces {head_size} bytes of JSON, which no engine and no trainer does")
    head = json.loads(_exactly(connection, head_size))
    content = received(descriptors[0], size) if handed and descriptors else _exactly(connection, size)
    start, tensors = 0, {}
    for name, kind, shape in head["tensors"]:
        dtype = getattr(torch, kind)
        end = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        flat = torch.frombuffer(content, dtype=torch.uint8, count=end - start, offset=start) if end > start else torch.empty(0)
        tensors[name] = flat.view(dtype).reshape(shape) if end > start else torch.empty(shape, dtype=dtype)
        start = end
    return Message(head["kind"], head["fields"], tensors)


def _lengths(connection: socket.socket) -> tuple[bytearray, list[int]]:
    """The next message's lengths, and the memory that comes with them."""
    if connection.family != socket.AF_UNIX:
        return _exactly(connection, _LENGTHS.size), []
    try:
        first, descriptors, _, _ = socket.recv_fds(connection, _LENGTHS.size, 1)
    except OSError as error:
        raise _lost(connection, error) from None
    if not first:
        raise LostError("it has closed the connection")
    return bytearray(first) + _exactly(connection, _LENGTHS.size - len(first)), descriptors


def _exactly(connection: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    view = memoryview(found)
    while len(view):
        try:
            count = connection.recv_into(view)
        except OSError as error:
            raise _lost(connection, error) from None
        if not count:
            raise LostError("it has closed the connection")
        view = view[count:]
    return found


def _lost(connection: socket.socket, error: OSError) -> LostError:
    silent = isinstance(error, TimeoutError)
    return LostError(f"it has been silent for {connection.gettimeout():g} s" if silent else str(error))


def prove(connection: socket.socket, token: str, *, answers: bool) -> bool:
    """Whether both sides know the token; each proves it to the other. answers: this side answers first.

    Raises LostError if the other side is gone or says nothing for some seconds.
    """
    limit = connection.gettimeout()
    connection.settimeout(_HANDSHAKE_S)
    deadline = time.monotonic() + _HANDSHAKE_S
    try:
        mine = secrets.token_bytes(_PROOF_BYTES)
        connection.sendall(mine)
        theirs = bytes(_exactly(connection, _PROOF_BYTES))
        own, other = (b"answers", b"asks") if answers else (b"asks", b"answers")
        if answers:
            connection.sendall(_proof(token, own, theirs))
        right = hmac.compare_digest(_exactly(connection, _PROOF_BYTES), _proof(token, other, mine))
        if not answers:
            connection.sendall(_proof(token, own, theirs) if right else bytes(_PROOF_BYTES))
        return right and time.monotonic() < deadline
    except OSError as error:
        raise error if isinstance(error, LostError) else LostError(str(error)) from None
    finally:
        connection.settimeout(limit)


def _proof(token: str, side: bytes, challenge: bytes) -> bytes:
    return hmac.digest(token.encode(), side + challenge, "sha256")


def address_of(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`. ValueError unless the host is an address of this machine or of a private network."""
    host, _, port = text.rpartition(":")
    try:
        found = ipaddress.ip_address(socket.gethostbyname(host))
        number = int(port)
        if not 0 <= number < 1 << 16:
            raise ValueError
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is no address of an engine; give HOST:PORT, such as 10.0.0.2:5601") from None
    if not (found.is_loopback or found.is_private):
        raise ValueError(
            f"{text} is a public address, and what an engine and its trainer say is not encrypted; use one of a private network"
        )
    return str(found), number


_PROMPT_TENSORS = ("tokens", "positions", "pixels", "grid")
_PROMPT_FIELDS = ("next_position", "image_keys", "image_spans", "opened", "seen")


def request_message(requests: Sequence[Request]) -> Message:
    """The requests; a prompt that several of them share is sent once."""
    prompts: dict[int, EncodedPrompt] = {id(request.prompt): request.prompt for request in requests}
    number = {key: place for place, key in enumerate(prompts)}
    tensors = {f"{number[key]}.{name}": getattr(each, name) for key, each in prompts.items() for name in _PROMPT_TENSORS}
    fields = {
        "prompts": [{name: getattr(each, name) for name in _PROMPT_FIELDS} for each in prompts.values()],
        "requests": [
            {
                "slot": request.slot,
                "sample": request.sample,
                "prompt": number[id(request.prompt)],
                "max_new_tokens": request.max_new_tokens,
                "decoding": asdict(request.decoding),
                "seed": request.seed,
                "begun": request.begun,
            }
            for request in requests
        ],
    }
    return Message("generate", fields, tensors)


def requests_of(message: Message) -> list[Request]:
    """What `request_message` was given."""
    prompts = [
        EncodedPrompt(
            **{name: message.tensors[f"{number}.{name}"] for name in _PROMPT_TENSORS},
            next_position=kept["next_position"],
            image_keys=tuple(kept["image_keys"]),
            image_spans=tuple((offset, length) for offset, length in kept["image_spans"]),
            opened=kept["opened"],
            seen=tuple((width, height) for width, height in kept["seen"]),
        )
        for number, kept in enumerate(message.fields["prompts"])
    ]
    return [
        Request(
            **each | {"prompt": prompts[each["prompt"]], "decoding": Decoding(**each["decoding"]), "begun": tuple(each["begun"])}
        )
        for each in message.fields["requests"]
    ]


def rollout_message(rollout: Rollout) -> Message:
    """The rollout; JSON keeps every bit of its log-probs, and routes are a tensor."""
    fields = {name: getattr(rollout, name) for name in Rollout.__slots__ if name != "routes"}
    routes = {} if rollout.routes is None else {"routes": torch.as_tensor(np.ascontiguousarray(rollout.routes))}
    return Message("rollout", fields, routes)


def rollout_of(message: Message) -> Rollout:
    """What `rollout_message` was given."""
    found = Rollout(**message.fields)
    routes = message.tensors.get("routes")
    return replace(
        found,
        tokens=tuple(found.tokens),
        logprobs=tuple(found.logprobs),
        weight_versions=tuple(found.weight_versions),
        routes=None if routes is None else routes.numpy(),
    )
