"""Weights straight from the trainer's device to the engines', without a way through their hosts' memory.

NCCL carries them between GPUs, gloo between CPUs. A call of either may never return once a process is gone: so each has a thread
of its own, and whoever waits for it listens to the connections meanwhile. What fails here comes over the connections instead.
"""

import os
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
_BLOCKS = "TORCH_NCCL_BLOCKING_WAIT"
_HOUR = timedelta(hours=1)  # whoever waits gives up much sooner, and ends the group


class Group:
    """The trainer, which is number 0 and sends, and the processes of its replicas, which receive.

    device: this process's. A group of several threads: one connects, sends or receives, and another may end it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._store: Any = None
        self._group: Any = None

    def connect(self, meeting: Mapping[str, Any], number: int, *, address: str, listener: socket.socket | None = None) -> None:
        """Meets the others. Raises RuntimeError if not all come, and may not return if one is gone.

        meeting: address and port of the sender's store, the number of processes, and a secret prefix of the store's keys.
        address: at which the others reach this process. listener: the sender's socket at the port; its descriptor is taken over.
        """
        self._store = dist.TCPStore(
            meeting["address"],
            meeting["port"],
            meeting["size"],
            is_master=listener is not None,
            timeout=timedelta(seconds=JOIN_S),
            wait_for_workers=False,
            master_listen_fd=listener.detach() if listener else None,
        )
        store, size = dist.PrefixStore(meeting["secret"], self._store), meeting["size"]
        self._group = _nccl(store, number, size) if self.device.type == "cuda" else _gloo(store, number, size, address)
        self.send([torch.zeros(1, device=self.device)])  # NCCL connects only now

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Sends the sender's tensors, which are contiguous and on its device, into the others' of the same sizes."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # each thread has a device of its own
            torch.cuda.synchronize()
        for tensor in tensors:
            if tensor.nbytes:
                self._group.broadcast([tensor.reshape(-1).view(torch.uint8)], dist.BroadcastOptions()).wait()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def receive(self, announced: Iterable[tuple[str, str, Sequence[int]]]) -> dict[str, Tensor]:
        """The tensors that the sender sends. announced: their names, dtypes and shapes."""
        tensors = {name: torch.empty(shape, dtype=getattr(torch, kind), device=self.device) for name, kind, shape in announced}
        self.send(tensors.values())
        return tensors

    def abort(self) -> "Future[None]":
        """Ends it, and whatever hangs in it."""
        return in_background(lambda: self._group.abort() if self._group else None)


def _gloo(store: dist.Store, number: int, size: int, address: str) -> Any:
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=address)]
    options._timeout = _HOUR
    return gloo(store, number, size, options)


def _nccl(store: dist.Store, number: int, size: int) -> Any:
    nccl: Any = dist.ProcessGroupNCCL
    options = nccl.Options()
    options._timeout = _HOUR
    # A lost process is an error of the call that waits. Without this, torch's watchdog would end this process for it.
    before = os.environ.get(_BLOCKS)
    os.environ[_BLOCKS] = "1"
    try:
        return nccl(store, number, size, options)
    finally:
        del os.environ[_BLOCKS]
        os.environ.update({_BLOCKS: before} if before else {})


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
