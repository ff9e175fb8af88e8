"""Measured memory of the policy beside what `vlrl plan --memory` says, on the CPU.

    python -m bench.memory [--layers 12] [--json bench/results/memory.json]

Each case is a real policy under DeepSpeed, on one or two ranks, in processes of its own. What it keeps is the growth of the
process's anonymous memory, with free pages given back; what a pass needs is the growth of its high-water mark. Both count
from after a tiny policy's first step, so that libraries are not among it.

By default glibc keeps freed blocks of up to 32 MB, which no plan can foresee. Here it gives them back (MALLOC_MMAP_THRESHOLD_),
unless --default-malloc is given.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlrl.config import ImagesConfig, PolicyConfig

_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 2304,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 8, 8], "mrope_interleaved": True, "rope_theta": 1e4},
}
_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 384, "norm_topk_prob": True}
_VISION = {
    "depth": 8,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_heads": 4,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 256,
    "deepstack_visual_indexes": [1, 3, 5],
    "out_hidden_size": 768,
}
_IMAGES = ImagesConfig(min_pixels=1024, max_pixels=1 << 14)
_FP32_SUMS = {"data_types": {"grad_accum_dtype": "fp32"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A policy on `ranks` ranks; tokens: of the smaller of two passes whose peaks are compared, none if 0."""

    ranks: int
    stage: int
    dtype: str
    tokens: int = 0
    checkpointing: bool = False
    moe: bool = False

    @property
    def settings(self) -> PolicyConfig:
        return PolicyConfig(
            zero_stage=self.stage,
            dtype=self.dtype,
            max_tokens_per_micro_batch=64,
            gradient_checkpointing=self.checkpointing,
            deepspeed=_FP32_SUMS if self.stage else {},
        )


_STATES = [
    *((ranks, stage, "float32") for ranks, stage in ((1, 0), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3))),
    *((ranks, stage, "bfloat16") for ranks, stage in ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3))),
]
_PASSES = [(1, 0, "float32"), (2, 3, "float32"), (1, 1, "bfloat16"), (2, 2, "bfloat16"), (2, 3, "bfloat16")]
CASES = (
    *(Case(ranks=ranks, stage=stage, dtype=dtype) for ranks, stage, dtype in _STATES),
    *(
        Case(ranks=ranks, stage=stage, dtype=dtype, tokens=1024, checkpointing=checkpointing, moe=moe)
        for ranks, stage, dtype in _PASSES
        for moe in (False, True)
        for checkpointing in (False, True)
    ),
)


def write_models(folder: Path, *, layers: int) -> None:
    """A dense and an MoE model of so many layers, and a tiny one to warm up with."""
    from vlrl.models.families.qwen3_vl import QWEN3_VL
    from vlrl.models.families.qwen3_vl_moe import QWEN3_VL_MOE
    from vlrl.models.tiny import build_tiny, write_random

    text = _TEXT | {"num_hidden_layers": layers}
    build_tiny(folder / "tiny", ["0123456789"])
    write_random(folder / "dense", ["0123456789"], QWEN3_VL, text, _VISION, tied=True)
    write_random(folder / "moe", ["0123456789"], QWEN3_VL_MOE, text | _EXPERTS, _VISION, tied=True)


def measured(case: Case, folder: Path, *, default_malloc: bool = False) -> list[dict[str, Any]]:
    """Measured and planned bytes of a case, by what they are of. folder: of write_models."""
    environment = os.environ | ({} if default_malloc else {"MALLOC_MMAP_THRESHOLD_": "65536"})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(case.ranks), "-m"]
    asked = json.dumps({name: getattr(case, name) for name in case.__slots__})
    command += ["bench.memory", "--worker", str(folder), asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    if done.returncode:
        raise RuntimeError(f"{case} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))


def _worker(folder: Path, case: Case) -> None:
    import torch

    from vlrl.distributed.ranks import join_ranks
    from vlrl.memory.states import states
    from vlrl.models.checkpoint_io import load_encoder
    from vlrl.models.packing import pack_groups
    from vlrl.models.sizes import ModelSizes
    from vlrl.models.tensor_check import empty_model
    from vlrl.trainer.policy import Policy

    torch.set_num_threads(1)
    ranks, model = join_ranks(), str(folder / ("moe" if case.moe else "dense"))
    open_policy = partial(Policy, case.settings, ranks=ranks, updates=4, temperature=1.0, banned=[])
    encoder = load_encoder(model, _IMAGES)
    small = pack_groups([(encoder.filler(), [[5] * 16])], encoder.filler())

    def backward(policy: Policy) -> None:
        policy.backward(policy.forward(small).logprobs.sum())

    warm = open_policy(model=str(folder / "tiny"))
    backward(warm)
    warm.step()
    before = _kept()
    policy = open_policy(model=model)
    backward(policy)
    policy.step()
    found, planned = {"kept": _kept() - before}, {}
    backward(policy)
    found["with gradients"] = _kept() - before
    sizes = ModelSizes.of(empty_model(model))
    of_stage = states(case.settings, sizes, ranks.size)
    planned["kept"] = sum(of_stage.kept.values())
    beside = of_stage.bucket if case.stage == 1 and case.dtype == "bfloat16" else 0  # whole gradients beside their fp32 sums
    planned["with gradients"] = sum((of_stage.kept | {"gradients": of_stage.gradients}).values()) + beside
    if case.tokens:
        found, planned = _peak(policy, encoder, sizes, case)
    if ranks.is_first:
        print(json.dumps([{"what": name, "measured": found[name], "planned": planned[name]} for name in found]), flush=True)


def _peak(policy: Any, encoder: Any, sizes: Any, case: Case) -> tuple[dict[str, int], dict[str, int]]:
    """How much higher a pass with three times the tokens peaks: gradients and their copies are alike in both."""
    import torch

    from vlrl.memory.activations import Activations
    from vlrl.models.packing import pack_groups
    from vlrl.trainer.peak_memory import peak_bytes

    prompt = encoder.filler()
    dtype = getattr(torch, case.dtype)
    costs = Activations(sizes=sizes, dtype=dtype, checkpointing=case.checkpointing, freeze_vision=False, device="cpu")

    def of(tokens: int) -> tuple[int, int]:
        response = [5] * ((tokens - len(prompt.tokens)) // 4)
        pack = pack_groups([(prompt, [response] * 4)], encoder.filler())
        found = peak_bytes(lambda: policy.backward(policy.forward(pack).zero))
        return found, costs.peak(pack.groups, len(pack.pixels))

    (few, few_planned), (many, many_planned) = of(case.tokens), of(3 * case.tokens)
    name = f"a pass of {3 * case.tokens:,} tokens over one of {case.tokens:,}"
    return {name: many - few}, {name: many_planned - few_planned}


def _kept() -> int:
    """This process's anonymous memory."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) << 10


def _line(case: Case, row: dict[str, Any]) -> str:
    what = row["what"] + (", checkpointing" if case.checkpointing else "")
    numbers = f"{row['measured'] / 1e6:,.0f} | {row['planned'] / 1e6:,.0f} | {row['measured'] / row['planned']:.2f}"
    return f"| {'MoE' if case.moe else 'dense'} | {case.stage} | {case.dtype} | {case.ranks} | {what} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--default-malloc", action="store_true", help="leave glibc's malloc as it is")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _worker(Path(options.worker[0]), Case(**json.loads(options.worker[1])))
        return
    print("| model | ZeRO | weights | ranks | of each rank | measured, MB | planned, MB | measured / planned |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), layers=options.layers)
        for case in CASES:
            rows = measured(case, Path(folder), default_malloc=options.default_malloc)
            results += [{name: getattr(case, name) for name in case.__slots__} | row for row in rows]
            print("\n".join(_line(case, row) for row in rows), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
