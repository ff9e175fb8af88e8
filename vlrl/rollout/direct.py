"""Weights straight from the trainer's device to the engines', without a way through their hosts' memory.

NCCL carries them between GPUs, gloo between CPUs. A call of either may never return once a process is gone: so each has a thread
of its own, and whoever waits for it listens to the connections meanwhile. What fails here comes over the connections instead.
"""

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from threading import Thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Found = TypeVar("Found")

LOOK_S = 0.1
"""Whoever waits for a group looks at the connections this often."""
JOIN_S = 60.0
"""In which a group forms."""
_HOUR = timedelta(hours=1)  # whoever waits gives up much sooner, and ends the group


class Group:
    """The trainer, which is number 0 and sends, and the processes of its replicas, which receive.

    meeting: where they meet, of how many there are, and a name that only the connections have told, without which nothing of a
    stranger's is read. device: this process's. own: the address at which the others reach it. listener: the sender's, which is
    used up. Raises RuntimeError if not all come, and may not return if one is gone.
    """

    def __init__(
        self,
        meeting: Mapping[str, Any],
        number: int,
        *,
        device: torch.device,
        own: str,
        listener: socket.socket | None = None,
    ) -> None:
        self._store = dist.TCPStore(
            meeting["address"],
            meeting["port"],
            meeting["size"],
            is_master=listener is not None,
            timeout=timedelta(seconds=JOIN_S),
            wait_for_workers=False,
            master_listen_fd=listener.detach() if listener else None,
        )
        store, size = dist.PrefixStore(meeting["name"], self._store), meeting["size"]
        self.device = device
        self._group = _nccl(store, number, size) if device.type == "cuda" else _gloo(store, number, size, own)
        self.broadcast([torch.zeros(1, device=device)])  # NCCL connects only now

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Sends the tensors, or receives them in place. Contiguous ones, on this process's device."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # each thread has a device of its own
            torch.cuda.synchronize()
        for tensor in tensors:
            if tensor.nbytes:
                self._group.broadcast([tensor.reshape(-1).view(torch.uint8)], dist.BroadcastOptions()).wait()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def abort(self) -> None:
        """Ends it, and a broadcast that hangs."""
        in_background(self._group.abort)


def _gloo(store: dist.Store, number: int, size: int, own: str) -> Any:
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=own)]
    options._timeout = _HOUR
    return gloo(store, number, size, options)


def _nccl(store: dist.Store, number: int, size: int) -> Any:
    nccl: Any = dist.ProcessGroupNCCL
    options = nccl.Options()
    options._timeout = _HOUR
    return nccl(store, number, size, options)


def in_background(work: Callable[[], Found]) -> "Future[Found]":
    """Begins the work in a thread that ends with the process."""
    future: Future[Found] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="direct weights", daemon=True).start()
    return future


def own_device() -> torch.device:
    """The device of the thread that asks."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def room_for(announced: Iterable[tuple[str, str, Sequence[int]]], device: torch.device) -> dict[str, Tensor]:
    """Tensors of these names, dtypes and shapes, with any content."""
    return {name: torch.empty(shape, dtype=getattr(torch, kind), device=device) for name, kind, shape in announced}
