"""Which device's kernels the model runs: those of its tensors' device, or those of a GPU whose memory is only counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_counted: ContextVar[str | None] = ContextVar("counted", default=None)


def kernels_of(device: torch.device) -> str:
    """The type of the device whose kernels are chosen for tensors of this one: cpu or cuda."""
    return _counted.get() or device.type


@contextmanager
def counted_for(device: str) -> Iterator[None]:
    """Chooses another device's kernels: on a GPU that is not there, torch can't differentiate even fake tensors."""
    token = _counted.set(device)
    try:
        yield
    finally:
        _counted.reset(token)
