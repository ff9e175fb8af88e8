"""What tests/models/test_loading.py runs on each of two ranks.

python -m tests.models.loading_on_ranks equal|lean MODEL [SMALL_MODEL]
"""

import ctypes
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.trainer.replay import open_policy, weights_of
from vlrl import config as cfg
from vlrl.distributed.ranks import Ranks, join_ranks
from vlrl.trainer.peak_memory import peak_bytes
from vlrl.trainer.policy import load_packed

_MMAP_THRESHOLD = -3  # of mallopt


def equal(model: str, ranks: Ranks) -> None:
    """A sharded policy's gathered weights are the files', whatever is frozen."""
    files = load_file(Path(model) / "model-00001.safetensors")
    zero = {"stage3_param_persistence_threshold": 0}
    policy = open_policy(model, ranks, zero_stage=3, freeze_vision=True, deepspeed={"zero_optimization": zero})
    kept = sum(parameter.ds_tensor.numel() for parameter in policy.engine.module.parameters())
    whole = sum(parameter.ds_numel for parameter in policy.engine.module.parameters())
    assert kept < 0.6 * whole, (kept, whole)
    weights = weights_of(policy)
    assert weights.keys() == files.keys() and all(weight.equal(files[name]) for name, weight in weights.items())


def lean(model: str, ranks: Ranks, small: str) -> None:
    """Loading to a share of one half takes less than the model, by more than its largest tensor and some room to work in."""
    ctypes.CDLL("libc.so.6").mallopt(_MMAP_THRESHOLD, 1 << 18)  # what is freed is given back, as larger tensors always are
    settings = cfg.PolicyConfig(zero_stage=3)
    loaded: list = []
    load_packed(settings, small, ranks, temperature=1.0, banned=[])  # imports, and buffers of the process group
    peak = peak_bytes(lambda: loaded.append(load_packed(settings, model, ranks, temperature=1.0, banned=[])))
    whole = sum(2 * parameter.ds_numel for parameter in loaded[0].parameters())
    print(f"peak {peak / whole:.2f} of the model's {whole / 2**20:.0f} MiB", flush=True)
    assert 0.4 < peak / whole < 0.85, (peak, whole)


torch.set_num_threads(1)
ranks = join_ranks()
{"equal": equal, "lean": lean}[sys.argv[1]](sys.argv[2], ranks, *sys.argv[3:])
ranks.barrier()
