"""Host memory that a rank takes to load the policy, at its highest and when it is loaded, in bytes a parameter.

    torchrun --nproc_per_node 2 -m bench.loading models/random-200M --stage 3

A model folder that does not exist is written first, with random weights of about 200M parameters. The peak is of resident memory,
so that mapped files count too.
"""

import argparse
import ctypes
import gc
from pathlib import Path

import psutil
import torch

from vlrl import config as cfg
from vlrl.distributed.ranks import join_ranks
from vlrl.models.qwen3_vl import QWEN3_VL
from vlrl.models.tiny import write_random
from vlrl.trainer.peak_memory import peak_bytes
from vlrl.trainer.policy import Policy


def write_model(folder: Path, dtype: torch.dtype) -> None:
    text, vision = QWEN3_VL.tiny_configs(False)
    rope = text["rope_parameters"] | {"mrope_section": [16, 8, 8]}
    text |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 16}
    text |= {"num_key_value_heads": 8, "head_dim": 64, "rope_parameters": rope}
    write_random(folder, ["0123456789"], text, vision | {"out_hidden_size": 1024}, tied=True, dtype=dtype)


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
    loaded: list[Policy] = []

    def load() -> None:
        loaded.append(Policy(settings, str(options.model), ranks=ranks, updates=1, temperature=1.0, banned=[]))

    process = psutil.Process()
    before = process.memory_info().rss
    peak = peak_bytes(load)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    steady = process.memory_info().rss - before
    parameters = sum(getattr(each, "ds_numel", each.numel()) for each in loaded[0].engine.module.parameters())
    for rank, (highest, left) in enumerate(ranks.gather((peak / parameters, steady / parameters))):
        if ranks.is_first:
            print(f"rank {rank} of {ranks.size}, {parameters / 1e6:.0f} M parameters, ZeRO-{options.stage}, {options.dtype}:")
            print(f"  bytes a parameter: {highest:.1f} at the peak, {left:.1f} when loaded", flush=True)


if __name__ == "__main__":
    main()
