"""The processes of a run: torchrun's, the deepspeed launcher's, or this one alone.

Small exchanges between them go through here, over gloo on the CPU side: counts, decisions, and hashes that must agree.
"""

import os
import pickle
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from vlrl.telemetry.phase import WAITING, within

WAIT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place: rank of size, and its number on its machine. wait_s: how long one rank waits for another."""

    rank: int
    size: int
    local_rank: int
    wait_s: float = WAIT_S

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def synchronize(self) -> None:
        """Waits until the accelerator has done all that it was given."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums a dict of numbers over ranks; ranks may hold different keys."""
        total: dict[str, float] = {}
        for part in self.gather(dict(values)):
            for key, value in part.items():
                total[key] = total.get(key, 0.0) + value
        return total

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, in the order of ranks, on every rank."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        with within(WAITING):
            dist.all_gather_object(items, item, group=_host_group())
        return items

    def gather_on_first(self, item: Any) -> list[Any]:
        """Every rank's item, in the order of ranks, on the first rank; an empty list on the others."""
        if self.size == 1:
            return [item]
        items: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(item, items, dst=0, group=_host_group())
        return items or []

    def broadcast(self, item: Any) -> Any:
        """The first rank's item, on every rank; what the others pass is ignored."""
        return self.gather(item if self.is_first else None)[0]

    def exchange(self, parcels: Sequence[Any]) -> list[Any]:
        """Sends one item to each rank, and returns the one that each rank sent here; a rank's own is returned unchanged."""
        if self.size == 1:
            return list(parcels)
        others = [rank for rank in range(self.size) if rank != self.rank]
        packed = {rank: torch.frombuffer(bytearray(pickle.dumps(parcels[rank])), dtype=torch.uint8) for rank in others}
        sizes = self.gather({rank: len(each) for rank, each in packed.items()})
        received = {rank: torch.empty(sizes[rank][self.rank], dtype=torch.uint8) for rank in others}
        group = _host_group()
        waiting = [dist.isend(packed[rank], rank, group=group) for rank in others]
        waiting += [dist.irecv(received[rank], rank, group=group) for rank in others]
        with within(WAITING):
            for each in filter(None, waiting):
                each.wait(timedelta(seconds=self.wait_s))
        arrived = {rank: pickle.loads(content.numpy().tobytes()) for rank, content in received.items()}
        return [arrived.get(rank, parcels[rank]) for rank in range(self.size)]

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def min(self, value: int) -> int:
        return min(self.gather(value))

    def max(self, value: float) -> float:
        return max(self.gather(value))

    def barrier(self) -> None:
        self.gather(None)

    def wait(self, what: str, limit: timedelta) -> None:
        """A barrier with a limit of its own. RuntimeError, naming what was waited for, if a rank is not there by then."""
        if self.size == 1:
            return
        try:
            dist.monitored_barrier(_host_group(), timeout=limit, wait_all_ranks=True)
        except RuntimeError as error:
            raise RuntimeError(f"rank {self.rank} waited for {what}, at most {limit}: {error}") from None


_groups: list[Any] = []


def _host_group() -> Any:
    """A gloo group beside the device's own, so that small Python objects never touch the accelerator."""
    if not _groups:
        _groups.append(dist.new_group(backend="gloo"))
    return _groups[0]


def join_ranks(wait_s: float = WAIT_S) -> Ranks:
    """Starts the process group: of the launcher's ranks if RANK is set, otherwise of this process alone.

    wait_s: the time limit of collectives, in every group that is made later too.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns at import that it looked for a GPU in vain
    import deepspeed

    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        # Its shared-memory all-reduce would be compiled at first start, under a lock that a killed start leaves behind.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    limit = timedelta(seconds=wait_s)
    # DeepSpeed reduces gradients in a copy of the world's group, and vLLM makes groups of its own: both take torch's defaults.
    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = limit
    if not dist.is_initialized():
        choose_interface()
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # torchrun keeps one store for all restarts, in which a new process may find the address of one that is gone.
            size, address = int(os.environ["WORLD_SIZE"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
            store = dist.TCPStore(*address, size, is_master=False, timeout=limit)
            attempt = dist.PrefixStore(f"attempt/{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
            dist.init_process_group(backend, store=attempt, rank=int(os.environ["RANK"]), world_size=size, timeout=limit)
        deepspeed.init_distributed(dist_backend=backend, timeout=limit, verbose=False)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]), wait_s)
    if ranks.size > 1:
        _host_group()  # a collective: all ranks make it here, together
    return ranks


def choose_interface() -> None:
    """With several hosts: gloo, NCCL and vLLM use the network interface of the route to MASTER_ADDR, unless the user chose one.

    By themselves they take the address of the host's own name, which is often 127.0.0.1.
    """
    here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE", "1")  # torchrun's name, and DeepSpeed's
    if os.environ["WORLD_SIZE"] == here:
        return
    address, interface = route_to(os.environ["MASTER_ADDR"])
    if interface and interface != "lo":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # without "=" NCCL takes it as the start of a name
        os.environ.setdefault("VLLM_HOST_IP", address)


def route_to(host: str) -> tuple[str, str]:
    """This machine's address on the route to the host, and the network interface that has it; empty if there is none."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # of UDP: sends nothing
            address = probe.getsockname()[0]
    except OSError:
        return "", ""
    named = ((name, each.address.partition("%")[0]) for name, of_it in psutil.net_if_addrs().items() for each in of_it)
    return address, next((name for name, own in named if own == address), "")
