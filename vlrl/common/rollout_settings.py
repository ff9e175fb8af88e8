"""Where a run samples its responses, and how far ahead of the training."""

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from vlrl.common.settings import Count, Section


class RolloutConfig(Section):
    """Where responses are sampled, and with which weights.

    place: colocated, by an engine in the training process; separate, by replicas of it in processes of their own, which may work
    while the policy is updated. replicas: how many the run starts, a multiple of its ranks; each rank samples with its own share.
    hosts: addresses HOST:PORT of replicas that `vlrl replica` runs elsewhere, instead of starting any.
    staleness: how many steps the weights that sample a batch are behind those that train on it. With 1, the next batch is
    sampled while this one is trained on, and no longer than that; 0 waits for each batch. The draws and the version of the
    weights depend on the step alone.
    partial_tokens: with a staleness of 2 or more, a response that has sampled this many tokens since the last weights
    continues under the next ones, beside the next batches, so that a long one holds up no step but its own. Tokens are counted
    and not seconds, so a run is the same each time. By default each response is sampled whole.
    transfer: how weights reach separate engines. direct: from device to device, by NCCL between GPUs, by gloo between CPUs.
    memory: through the hosts' memory and the connections, as where direct fails. auto: direct on GPUs, memory on CPUs.
    on_lost: what to do without a replica that can't be started again: stop, or continue with the others.
    """

    place: Literal["colocated", "separate"] = "colocated"
    replicas: Count | None = None
    hosts: tuple[str, ...] = ()
    staleness: Annotated[int, Field(ge=0, le=16)] = 0
    partial_tokens: Count | None = None
    transfer: Literal["auto", "direct", "memory"] = "auto"
    on_lost: Literal["stop", "continue"] = "stop"

    @property
    def is_separate(self) -> bool:
        return self.place == "separate"

    def places(self, rank: int, ranks: int) -> list[str]:
        """The addresses of this rank's replicas, "" for one that it starts."""
        every = self.hosts or ("",) * (self.replicas or ranks)
        return list(every[rank::ranks])

    def faults(self) -> Iterator[str]:
        """A sentence for each setting that can't be used."""
        if not self.is_separate and (self.hosts or self.replicas or self.transfer != "auto"):
            yield (
                "rollout.place: replicas, hosts and transfer are of separate engines, and place is colocated; set place: separate"
            )
        if self.hosts and self.replicas:
            yield f"rollout.replicas: {self.replicas} to start and {len(self.hosts)} hosts to attach; give one of the two"
        if self.partial_tokens and self.staleness < 2:
            yield (
                f"rollout.partial_tokens: a response continues under the next weights only if its batch may wait for them, and "
                f"staleness is {self.staleness}; set rollout.staleness to 2 or more"
            )
        for host in self.hosts:
            name, _, port = host.rpartition(":")
            if not name or not port.isdigit():
                yield f"rollout.hosts: {host!r} is no address; give HOST:PORT, such as 10.0.0.2:5601"
            elif _is_public(name):
                yield f"rollout.hosts: {host} is a public address, and the connection is not encrypted; use a private network's"


def _is_public(host: str) -> bool:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name, which is looked up when it is called
    return not (found.is_private or found.is_loopback)
