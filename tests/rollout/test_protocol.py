"""Messages between a trainer and its replicas arrive as they were sent, and strangers are not heard."""

import gc
import math
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlrl.models.processor import EncodedPrompt
from vlrl.rollout.engine import Decoding, Request
from vlrl.rollout.protocol import (
    LostError,
    Message,
    address_of,
    packed,
    prove,
    receive,
    request_message,
    requests_of,
    rollout_message,
    rollout_of,
    send,
    send_packed,
)
from vlrl.types import Rollout

DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def of_one_machine() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def of_two_machines() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]


PAIRS = pytest.mark.parametrize("pair", [of_one_machine, of_two_machines])


def through_a_socket(message: Message, pair: Callable[[], tuple[socket.socket, socket.socket]] = of_one_machine) -> Message:
    one, other = pair()
    with one, other:
        thread = Thread(target=send, args=(one, message))
        thread.start()
        found = receive(other)
        thread.join()
    return found


def a_prompt(tokens: int, images: int) -> EncodedPrompt:
    return EncodedPrompt(
        tokens=torch.arange(tokens),
        positions=torch.arange(3 * tokens).reshape(3, tokens),
        next_position=tokens + 1,
        pixels=torch.rand(images * 4, 6),
        grid=torch.tensor([[1, 2, 2]] * images).reshape(images, 3),
        image_keys=tuple(f"key {number}" for number in range(images)),
        image_spans=tuple((number, 1) for number in range(images)),
        opened="<think>\n",
        seen=((8, 8),) * images,
    )


@PAIRS
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), max_size=4), st.text())
def test_a_message_arrives_with_the_bits_that_were_sent(pair, tensors, text) -> None:
    sent = {str(number): torch.rand(shape).mul(9).to(dtype) for number, (dtype, shape) in enumerate(tensors)}
    found = through_a_socket(Message("any", {"text": text}, sent), pair)
    assert (found.kind, found.fields["text"]) == ("any", text)
    for name, tensor in sent.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert found.tensors[name].equal(tensor)


@PAIRS
def test_large_tensors_arrive_whole_however_often_they_are_sent(pair) -> None:
    sent = {"one": torch.rand(700, 701), "other": torch.arange(1 << 20).to(torch.bfloat16), "empty": torch.empty(0)}
    message, found = packed(Message("any", {}, sent)), []
    for _ in range(2):
        one, other = pair()
        with one, other:
            thread = Thread(target=send_packed, args=(one, message))
            thread.start()
            found.append(receive(other).tensors)
            thread.join()
    found[0]["one"] += 1  # a receiver's own copy
    assert found[1]["one"].equal(sent["one"]) and found[0]["other"].equal(sent["other"]) and not found[0]["empty"].numel()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_processes_of_a_machine_share_the_memory_of_large_tensors() -> None:
    message = packed(Message("any", {}, {"large": torch.zeros(1 << 20)}))
    one, other = of_one_machine()
    with one, other:
        send_packed(one, message)  # more than the socket could hold, while nobody reads
        found = receive(other).tensors["large"]
    before = open_files()
    message.content.view[0:4] = struct.pack("f", 7.0)
    assert found[0] == 7.0
    del message
    gc.collect()
    assert open_files() == before - 2, "its file, and the map's"
    assert found[0] == 7.0


def test_a_tensor_that_is_a_view_arrives_as_its_part_alone() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    assert through_a_socket(Message("any", {}, {"part": whole.T[1:]})).tensors["part"].equal(whole.T[1:])


@given(st.lists(st.floats(max_value=0, allow_nan=False), min_size=1, max_size=20))
def test_log_probs_arrive_to_the_last_bit(logprobs) -> None:
    rollout = Rollout(
        slot=3,
        sample=1,
        tokens=tuple(range(len(logprobs))),
        logprobs=tuple(logprobs),
        text="ü\n",
        finish_reason="stop",
        weight_versions=(7,) * len(logprobs),
        routes=torch.ones(4, 2, 1, dtype=torch.int16).numpy(),
    )
    found = rollout_of(through_a_socket(rollout_message(rollout)))
    assert found == rollout
    assert (found.routes == rollout.routes).all()
    assert [math.copysign(1, each) for each in found.logprobs] == [math.copysign(1, each) for each in logprobs]


def test_requests_arrive_and_a_shared_prompt_is_sent_once() -> None:
    prompts = [a_prompt(5, 1), a_prompt(3, 0)]
    decoding = Decoding(temperature=0.7, top_p=0.9, top_k=3)
    requests = [
        Request(
            slot=slot,
            sample=sample,
            prompt=prompt,
            max_new_tokens=9,
            decoding=decoding,
            seed=(1 << 55) + slot,
            begun=(4,) * sample,
        )
        for slot, prompt in enumerate(prompts)
        for sample in range(3)
    ]
    message = request_message(requests)
    assert len(message.tensors) == 2 * 4
    for found, request in zip(requests_of(through_a_socket(message)), requests, strict=True):
        assert (found.slot, found.sample, found.seed, found.begun) == (request.slot, request.sample, request.seed, request.begun)
        assert (found.decoding, found.max_new_tokens) == (request.decoding, request.max_new_tokens)
        for name in EncodedPrompt.__slots__:
            one, other = getattr(found.prompt, name), getattr(request.prompt, name)
            assert one.equal(other) if isinstance(one, torch.Tensor) else one == other


def proofs(token: str, other_token: str) -> tuple[bool, bool]:
    """Whether each side of a connection believes the other."""
    one, other = socket.socketpair()
    found = []

    def ask() -> None:
        found.append(prove(one, token, answers=False))
        one.close()

    with one, other:
        thread = Thread(target=ask)
        thread.start()
        answer = prove(other, other_token, answers=True)
        thread.join()
    return found[0], answer


def test_both_sides_prove_that_they_know_the_token() -> None:
    assert proofs("secret", "secret") == (True, True)


def test_who_does_not_know_the_token_is_refused() -> None:
    assert proofs("secret", "guess") == (False, False)


def test_a_stranger_that_says_nothing_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr("vlrl.rollout.protocol._HANDSHAKE_S", 0.1)
    one, other = socket.socketpair()
    with one, other, pytest.raises(LostError, match="silent for 0.1 s"):
        prove(one, "secret", answers=False)


def test_a_message_that_ends_in_the_middle_is_a_lost_connection() -> None:
    one, other = socket.socketpair()
    with other:
        one.sendall(struct.pack("!IQ?", 100, 0, False) + b"half")
        one.close()
        with pytest.raises(LostError, match="has closed the connection"):
            receive(other)


def test_a_length_that_no_message_has_is_refused_before_it_is_read() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(struct.pack("!IQ?", (1 << 32) - 1, 0, False))
        with pytest.raises(LostError, match="4294967295 bytes of JSON"):
            receive(other)


@pytest.mark.parametrize("text", ["127.0.0.1:5601", "10.1.2.3:80", "localhost:1"])
def test_loopback_and_private_addresses_are_taken(text) -> None:
    assert address_of(text)[1] == int(text.rpartition(":")[2])


@pytest.mark.parametrize("text", ["8.8.8.8:5601", "127.0.0.1", "127.0.0.1:port", "", "10.0.0.2:99999999"])
def test_other_addresses_are_refused(text) -> None:
    with pytest.raises(ValueError, match="is a public address|is no address of an engine"):
        address_of(text)
