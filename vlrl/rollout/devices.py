"""The GPUs of the replicas that a run starts: those of a host that follow the trainers' own."""

import os

import torch

from vlrl.config import Config
from vlrl.distributed.ranks import Ranks


def replica_devices(config: Config, ranks: Ranks) -> list[list[str]]:
    """The GPUs of each of this rank's replicas, as CUDA_VISIBLE_DEVICES has them; none without GPUs, or for a replica elsewhere.

    Raises ValueError if this host has too few.
    """
    places = config.rollout.places(ranks.rank, ranks.size) if config.rollout.is_separate else []
    if not torch.cuda.is_available() or any(places):
        return [[] for _ in places]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(place) for place in range(torch.cuda.device_count())]
    trainers, each = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), config.engine.tensor_parallel
    needed = trainers * (1 + len(places) * each)
    if needed > len(names) and places:
        raise ValueError(
            f"rollout.replicas: {trainers} trainers and {trainers * len(places)} replicas of {each} GPUs need {needed} GPUs on "
            f"this host, and it has {len(names)}; start fewer of either, or set rollout.place: colocated"
        )
    firsts = (trainers + (ranks.local_rank * len(places) + number) * each for number in range(len(places)))
    return [names[first : first + each] for first in firsts]
