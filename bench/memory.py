"""Measured memory of the policy beside what `vlrl plan --memory` says, on the CPU.

    python -m bench.memory [--layers 12]

Each case is a real policy under DeepSpeed, on one or two ranks, in processes of its own. What it keeps is the growth of the
process's anonymous memory, with free pages given back; what a pass needs is the growth of its high-water mark. Both count
from after a tiny policy's first step, so that libraries are not among it.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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


CASES = (
    *(Case(ranks=ranks, stage=stage, dtype="float32") for ranks, stage in ((1, 0), (1, 1), (1, 3), (2, 1), (2, 2), (2, 3))),
    *(Case(ranks=ranks, stage=stage, dtype="bfloat16") for ranks, stage in ((1, 2), (2, 1), (2, 2), (2, 3))),
    *(Case(ranks=1, stage=0, dtype="float32", tokens=1024, checkpointing=checkpointing) for checkpointing in (False, True)),
    *(Case(ranks=1, stage=0, dtype="float32", tokens=1024, checkpointing=checks, moe=True) for checks in (False, True)),
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


def measured(case: Case, folder: Path) -> list[dict[str, Any]]:
    """Measured and planned bytes of a case, by what they are of. folder: of write_models."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(case.ranks), "-m"]
    asked = json.dumps({name: getattr(case, name) for name in case.__slots__})
    done = subprocess.run([*command, "bench.memory", "--worker", str(folder), asked], capture_output=True, text=True, timeout=900)
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
    from vlrl.memory.activations import Activations
    from vlrl.models.packing import pack_groups
    from vlrl.trainer.peak_memory import peak_bytes

    prompt = encoder.filler()
    costs = Activations.of(sizes, wide=4, checkpointing=case.checkpointing, device="cpu")

    def of(tokens: int) -> tuple[int, int]:
        response = [5] * ((tokens - len(prompt.tokens)) // 4)
        pack = pack_groups([(prompt, [response] * 4)], encoder.filler())
        found = peak_bytes(lambda: policy.backward(policy.forward(pack).zero))
        return found, costs.peak(len(pack.tokens), len(pack.pixels))

    (few, few_planned), (many, many_planned) = of(case.tokens), of(3 * case.tokens)
    name = f"a pass of {3 * case.tokens:,} tokens over one of {case.tokens:,}"
    return {name: many - few}, {name: many_planned - few_planned}


def _kept() -> int:
    """This process's anonymous memory."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) << 10


def _table(folder: Path) -> Iterator[str]:
    yield "| model | ZeRO | weights | ranks | of each rank | measured, MB | planned, MB | measured / planned |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for case in CASES:
        for row in measured(case, folder):
            what = row["what"] + (", checkpointing" if case.checkpointing else "")
            numbers = f"{row['measured'] / 1e6:,.0f} | {row['planned'] / 1e6:,.0f} | {row['measured'] / row['planned']:.2f}"
            yield f"| {'MoE' if case.moe else 'dense'} | {case.stage} | {case.dtype} | {case.ranks} | {what} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _worker(Path(options.worker[0]), Case(**json.loads(options.worker[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), layers=options.layers)
        for line in _table(Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
