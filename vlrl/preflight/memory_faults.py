"""Refuses a run that its GPUs or hosts cannot hold, before the model is loaded, and names the settings that would make it fit."""

import logging
import os
from collections.abc import Iterator

import torch

from vlrl.config import Config
from vlrl.distributed.ranks import Ranks
from vlrl.memory.plan import Machine, MemoryPlan, shortages
from vlrl.memory.remedies import remedy
from vlrl.models.sizes import ModelSizes
from vlrl.trainer.peak_memory import free_bytes

logger = logging.getLogger(__name__)


def memory_faults(config: Config, sizes: ModelSizes, machine: Machine) -> Iterator[str]:
    """A sentence if parts that are known exactly do not fit. Only warns if the estimated ones are what is too much."""
    plan = MemoryPlan(config=config, sizes=sizes, machine=machine)
    for shortage in shortages(plan)[:1]:
        change = remedy(plan)
        advice = change or "use a smaller model or larger GPUs" if machine.on_gpus else change or "use a smaller model"
        sentence = f"memory: {shortage.sentence}; {advice} (vlrl plan RUN.yaml --memory has the whole account)"
        if shortage.certain:
            yield sentence
        else:
            logger.warning("%s", f"{sentence}. This is an estimate: the run starts")


def this_machine(ranks: Ranks) -> Machine:
    """Where this process runs; its hosts are taken to be alike. On CPUs memory is what is available now."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    hosts = -(-ranks.size // local)
    if not torch.cuda.is_available():
        return Machine(device="cpu", ranks_per_host=local, hosts=hosts, memory=free_bytes() * local)
    memory = torch.cuda.get_device_properties(ranks.device).total_memory
    host_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(device="cuda", ranks_per_host=local, hosts=hosts, memory=memory, host_memory=host_memory)
