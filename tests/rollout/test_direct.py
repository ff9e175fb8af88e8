"""Weights that go from device to device reach every replica with the same bits, and come through memory where that fails."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.rollout.test_parallel_replica import assert_same, follower_of
from tests.rollout.test_replicas import SECRET, changed, in_order, listening, pid_of, push, replicas, requests_of
from vlrl.rollout.connection import Connection
from vlrl.rollout.protocol import TOKEN, Message
from vlrl.rollout.replicas import Replicas
from vlrl.types import Rollout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tiny_dense) -> str:
    return tiny_dense


@pytest.fixture(scope="module")
def through_memory(model, pictures) -> list[Rollout]:
    """What two replicas sample with weights that came through memory."""
    with replicas(model, ["", ""]) as engine:
        push(engine, model, 1.01, 2)
        return in_order(engine.generate(requests_of(model, pictures)))


@pytest.fixture(scope="module")
def two(model) -> Iterator[Replicas]:
    with replicas(model, ["", ""], direct=True) as engine:
        yield engine


@pytest.fixture
def sent_in_messages(monkeypatch) -> list[int]:
    """The bytes of each bucket of weights that a message brings to a replica."""
    sizes: list[int] = []

    def counted(each, message) -> None:
        if not isinstance(message, Message) and b'"kind": "bucket"' in message.head:
            sizes.append(message.size)
        send(each, message)

    send = Connection.send
    monkeypatch.setattr(Connection, "send", counted)
    return sizes


def push_torn(engine: Replicas, model: str, act: Callable[[], None]) -> None:
    """Pushes weights, with something that happens after some of them."""

    def torn() -> Iterator[tuple[str, torch.Tensor]]:
        for place, named in enumerate(changed(model, 1.01)):
            if place == 5:
                act()
            yield named

    engine.load_weights(torn())
    engine.reset_caches()
    engine.version = 2


def test_every_replica_gets_the_same_bits_and_none_of_them_in_a_message(
    two, through_memory, model, pictures, sent_in_messages
) -> None:
    for factor in (1.02, 1.01):
        push(two, model, factor, 2)
    assert not sent_in_messages
    assert in_order(two.generate(requests_of(model, pictures))) == through_memory


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_replica_that_is_lost_in_the_middle_gets_them_in_messages_and_the_next_ones_directly(
    two, through_memory, model, pictures, number, monkeypatch, sent_in_messages
) -> None:
    monkeypatch.setattr("vlrl.rollout.replicas._DIRECT_BUCKET", 1)
    push_torn(two, model, lambda: os.kill(pid_of(two, 1), number))
    assert sent_in_messages
    assert in_order(two.generate(requests_of(model, pictures))) == through_memory
    sent_in_messages.clear()
    push(two, model, 1.01, 2)
    assert not sent_in_messages
    assert in_order(two.generate(requests_of(model, pictures))) == through_memory


def test_a_replica_that_was_lost_between_pushes_is_in_the_next_group(
    two, through_memory, model, pictures, sent_in_messages
) -> None:
    push(two, model, 1.01, 2)
    os.kill(pid_of(two), signal.SIGKILL)
    assert in_order(two.generate(requests_of(model, pictures))) == through_memory
    sent_in_messages.clear()
    push(two, model, 1.01, 2)
    assert not sent_in_messages


def test_where_no_group_can_form_weights_go_through_memory_and_that_is_said_once(
    through_memory, model, pictures, monkeypatch, caplog, sent_in_messages
) -> None:
    def refused(*arguments, **named) -> None:
        raise RuntimeError("no way between the devices")

    monkeypatch.setattr("vlrl.rollout.direct.Group.connect", refused)
    with replicas(model, ["", ""], direct=True) as engine:
        for _ in range(2):
            push(engine, model, 1.01, 2)
            assert in_order(engine.generate(requests_of(model, pictures))) == through_memory
    assert sent_in_messages
    assert caplog.text.count("so weights go through the hosts' memory from here on: no way between the devices") == 1


def test_attached_replicas_get_them_over_their_addresses(through_memory, model, pictures, monkeypatch, sent_in_messages) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    with listening() as first, listening() as second:
        for _ in range(2):  # the second trainer forms a group of its own
            with replicas(model, [first, second], direct=True) as engine:
                push(engine, model, 1.01, 2)
                assert in_order(engine.generate(requests_of(model, pictures))) == through_memory
    assert not sent_in_messages


def test_each_member_of_a_replica_of_two_processes_gets_them(model, pictures, sent_in_messages, monkeypatch) -> None:
    with replicas(model) as engine:
        push(engine, model, 1.01, 2)
        whole = in_order(engine.generate(requests_of(model, pictures)))
    sent_in_messages.clear()
    with replicas(model, tensor_parallel=2, direct=True) as engine:
        push(engine, model, 1.01, 2)
        assert not sent_in_messages
        straight = in_order(engine.generate(requests_of(model, pictures)))
        assert_same(straight, whole)
        monkeypatch.setattr("vlrl.rollout.replicas._DIRECT_BUCKET", 1)
        push_torn(engine, model, lambda: os.kill(follower_of(engine), signal.SIGKILL))
        assert in_order(engine.generate(requests_of(model, pictures))) == straight
