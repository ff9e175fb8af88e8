"""Compares the hosts of a run before it starts: network, folders, clocks and packages, one sentence for each difference."""

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

_PATIENCE = timedelta(seconds=60)
_CLOCKS_APART_S = 5.0  # the ranks read their clocks within a second
_PREFIX = "doctor"


def compare_hosts(versions: Mapping[str, str], folders: Sequence[Path], runs: Path | None) -> list[str]:
    """Every rank under a launcher calls this. Returns a sentence for each fault, on every rank.

    versions: of this host's packages. folders: those that every host reads, such as data sets. runs: the folder that all of them
    write to. RuntimeError if a rank does not answer in a minute.
    """
    from torch.distributed import PrefixStore, TCPStore

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_master = not rank and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = PrefixStore(_PREFIX, TCPStore(*address, is_master=is_master, timeout=_PATIENCE, wait_for_workers=False))
    mark = _share(store, rank, size, "mark", _write_mark(runs) if not rank and runs else "")[0]
    seen = bool(mark) and Path(mark).exists()
    facts = _facts(versions, folders) | {"sees_runs": seen or not runs}
    every = _share(store, rank, size, "facts", facts)
    if mark and not rank:
        Path(mark).unlink()
    faults = [*differences(every, runs), *_network_faults(store, rank, size, every)]
    store.set(f"end/{rank}", "")
    if is_master:  # the store ends with this process
        store.wait([f"end/{other}" for other in range(size)])
    return faults


def differences(hosts: Sequence[Mapping[str, Any]], runs: Path | None = None) -> Iterator[str]:
    """A sentence for each way in which a rank's host differs from the first rank's. hosts: `_facts` of each rank."""
    first = hosts[0]
    for other in {host["host"]: host for host in hosts[1:]}.values():
        for package, version in first["versions"].items():
            if other["versions"][package] != version:
                yield (
                    f"{package}: {version} on {first['host']}, {other['versions'][package]} on {other['host']}; install the same "
                    "requirements on both"
                )
        for folder, digest in first["folders"].items():
            if not other["folders"][folder]:
                yield f"{folder}: not on {other['host']}; copy it there, or put it on a file system that all hosts share"
            elif digest and other["folders"][folder] != digest:
                yield f"{folder}: differs between {first['host']} and {other['host']}; copy it anew"
        if not other["sees_runs"]:
            yield f"{runs}: {other['host']} does not see what {first['host']} writes; use a file system that all hosts share"
        if (apart := abs(other["clock"] - first["clock"])) > _CLOCKS_APART_S:
            yield f"clocks: {first['host']} and {other['host']} are {apart:.0f} s apart; synchronise them, or logs mislead"
    yield from (f"{folder}: not on {first['host']}" for folder, digest in first["folders"].items() if not digest)


def _facts(versions: Mapping[str, str], folders: Sequence[Path]) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "clock": time.time(),
        "versions": dict(versions),
        "folders": {str(folder): _digest(folder) for folder in folders},
    }


def _network_faults(store: Any, rank: int, size: int, hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Connects the ranks over gloo, as a run will."""
    import torch.distributed as dist

    from vlrl.distributed.ranks import choose_interface, route_to

    choose_interface()
    address, right = route_to(os.environ["MASTER_ADDR"])
    chosen = os.environ.get("GLOO_SOCKET_IFNAME", "")
    try:
        dist.init_process_group("gloo", store=dist.PrefixStore("gloo", store), rank=rank, world_size=size, timeout=_PATIENCE)
        dist.all_gather_object([None] * size, rank)
        fault = ""
    except (RuntimeError, ValueError) as error:
        fault = " ".join(str(error).split())[:200]
    said = ""
    # A loopback interface was seen to connect two ranks all the same; that is no promise for more.
    has_loopback = len({host["host"] for host in hosts}) > 1 and "lo" in (chosen, right)
    if has_loopback and right == "lo":
        name = os.environ["MASTER_ADDR"]
        said = f"network: on {hosts[rank]['host']} the first host's name {name} is {address}; start the ranks with its address"
    elif (fault or has_loopback) and chosen != right:
        said = (
            f"network: {hosts[rank]['host']} uses the interface {chosen or 'of its own name'}, but its route to the first host "
            f"is by {right or 'none'} ({address or 'no address'}); set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME there to {right}"
        )
    elif fault:
        said = f"network: {hosts[rank]['host']} cannot reach the other ranks over gloo: {fault}; look at firewalls between hosts"
    every = list(dict.fromkeys(filter(None, _share(store, rank, size, "network", said))))
    blamed = [each for each in every if "cannot reach" not in each]
    return blamed or every  # where one host uses a wrong interface, all fail


def _share(store: Any, rank: int, size: int, name: str, item: Any) -> list[Any]:
    """Every rank's item, by way of the store: no other connection may work yet."""
    store.set(f"{name}/{rank}", json.dumps(item))
    found = []
    for other in range(size):
        try:
            found.append(json.loads(store.get(f"{name}/{other}")))
        except RuntimeError as error:
            raise RuntimeError(f"rank {other} does not answer ({' '.join(str(error).split())[:200]})") from None
    return found


def _write_mark(runs: Path) -> str:
    runs.mkdir(parents=True, exist_ok=True)
    mark = runs.absolute() / f".doctor-{uuid.uuid4().hex}"
    mark.touch()
    return str(mark)


def _digest(folder: Path) -> str:
    """Of the names and sizes of a folder's files, empty if there is no folder."""
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return hashlib.sha256(repr([(str(path.relative_to(folder)), path.stat().st_size) for path in files]).encode()).hexdigest()
