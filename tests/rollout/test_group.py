"""Tensors that a group carries arrive as they were sent, whatever they are."""

import socket
from collections.abc import Iterator

import pytest
import torch

from tests.conftest import PATIENCE_S
from vlrl.rollout.direct import Group, in_background

HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def group() -> Iterator[list[Group]]:
    """The sender and two receivers, in one process."""
    listener = socket.create_server((HERE, 0))
    meeting = {"address": HERE, "port": listener.getsockname()[1], "secret": "of the test", "size": 3}
    members = [Group(torch.device("cpu")) for _ in range(3)]
    listeners = [listener, None, None]
    connecting = [
        in_background(
            lambda member=member, number=number: member.connect(meeting, number, address=HERE, listener=listeners[number])
        )
        for number, member in enumerate(members)
    ]
    for each in connecting:
        each.result(timeout=PATIENCE_S)
    yield members
    for member in members:
        member.abort().result(timeout=PATIENCE_S)


def test_every_member_receives_the_bits_of_each_dtype_and_shape(group):
    numbers = torch.Generator().manual_seed(0)
    sent = {
        f"{dtype} {shape}": torch.randn(shape, generator=numbers).to(dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64)
        for shape in [(), (0, 3), (7,), (3, 5, 2)]
    }
    announced = [(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in sent.items()]
    receiving = [in_background(lambda member=member: member.receive(announced)) for member in group[1:]]
    group[0].send(sent.values())
    for each in receiving:
        received = each.result(timeout=PATIENCE_S)
        assert list(received) == list(sent)
        for name, tensor in received.items():
            assert (tensor.dtype, tensor.shape) == (sent[name].dtype, sent[name].shape)
            assert tensor.reshape(-1).view(torch.uint8).equal(sent[name].reshape(-1).view(torch.uint8))
