"""The most host memory that a rank takes to load the model, and then to start DeepSpeed on it, in bytes a parameter.

    MALLOC_MMAP_THRESHOLD_=262144 torchrun --nproc_per_node 2 -m bench.loading models/random-150M --stage 3

A model folder that does not exist is written first, with random weights of about 150M parameters, MoE. The memory is the resident
one, so that mapped files count too. With the threshold, memory that is freed is given back, as that of larger tensors always is.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

import torch

from vlrl import config as cfg
from vlrl.distributed.ranks import join_ranks
from vlrl.models.families.qwen3_vl_moe import QWEN3_VL_MOE
from vlrl.models.tiny import write_random
from vlrl.trainer.peak_memory import peak_bytes
from vlrl.trainer.policy import Policy, load_packed


def write_model(folder: Path, dtype: torch.dtype) -> None:
    text, vision = QWEN3_VL_MOE.tiny_configs()
    text |= {"hidden_size": 512, "moe_intermediate_size": 384, "num_experts": 32, "num_hidden_layers": 8}
    write_random(folder, ["0123456789"], QWEN3_VL_MOE, text, vision | {"out_hidden_size": 512}, tied=True, dtype=dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ranks = join_ranks()
    if ranks.is_first and not options.model.exists():
        write_model(options.model, getattr(torch, options.dtype))
    ranks.barrier()
    settings = cfg.PolicyConfig(dtype=options.dtype, zero_stage=options.stage)
    shared: dict[str, Any] = {"ranks": ranks, "temperature": 1.0, "banned": []}
    held: list[Any] = []
    loading = peak_bytes(lambda: held.append(load_packed(settings, str(options.model), **shared)))
    parameters = sum(getattr(each, "ds_numel", each.numel()) for each in held.pop().parameters())
    gc.collect()
    starting = peak_bytes(lambda: held.append(Policy(settings, str(options.model), updates=1, **shared)))
    for rank, (loads, starts) in enumerate(ranks.gather((loading / parameters, starting / parameters))):
        if ranks.is_first:
            print(f"rank {rank} of {ranks.size}, {parameters / 1e6:.0f} M parameters, ZeRO-{options.stage}, {options.dtype}:")
            print(f"  bytes a parameter: {loads:.2f} to load, {starts:.2f} to load and start DeepSpeed", flush=True)


if __name__ == "__main__":
    main()
