"""What tests/trainer/test_reshape.py runs on one rank, two or three.

python -m tests.trainer.reshape_on_ranks MODELS PICTURES FOLDER JOB... runs each job: a cell to save, which is
KIND.DTYPE.STAGE.EXPERT_PARALLEL, with KIND-lora for adapters, or CELL@SAVED to resume a cell from what another one saved. MODELS
holds dense, moe and, to be overwritten by what is loaded, dense_other and moe_other.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from tests.trainer.replay import fixed_minibatches, losses_of, open_policy
from vlrl.config import LoraConfig
from vlrl.distributed.ranks import Ranks, join_ranks
from vlrl.models.expert_parallel import expert_parallel_size
from vlrl.trainer.policy import Policy

UPDATES = {"before": 2, "after": 5}
LORA = {"dense": LoraConfig(rank=4), "moe": LoraConfig(rank=4, targets=("attention", "experts"))}
DEEPSPEED = {
    "": {},
    "fp32gradients": {"data_types": {"grad_accum_dtype": "fp32"}},
    "offloaded": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
}


def main(models: str, pictures: str, folder: str, *jobs: str) -> None:
    torch.set_num_threads(1)
    run_jobs(Path(models), pictures.split(","), Path(folder), jobs, join_ranks())


def run_jobs(models: Path, pictures: list[str], folder: Path, jobs: tuple[str, ...], ranks: Ranks) -> None:
    """Saves or resumes each cell; rank 0 writes the losses of the updates that follow to FOLDER/JOB.on<ranks>.pt."""
    for job in jobs:
        cell, _, saved = job.partition("@")
        minibatches = fixed_minibatches(str(models / cell.split(".")[0].removesuffix("-lora")), pictures, ranks)
        policy = _opened(models, cell, ranks, other=bool(saved))
        if saved:
            policy.load(folder / saved)
        else:
            losses_of(policy, minibatches, UPDATES["before"])
        here = folder / f"{job}.on{ranks.size}"
        policy.save(here)
        ranks.barrier()
        _check_saved_state(policy, here)
        counters = {"version": policy.version, "lr": policy.lr, "steps": policy.engine.global_steps}
        losses = losses_of(policy, minibatches, UPDATES["after"])
        if ranks.is_first:
            torch.save(counters | {"losses": losses}, folder / f"{job}.on{ranks.size}.pt")


def whole_state(folder: Path) -> tuple[dict[str, dict[str, Tensor]], set[float]]:
    """Each parameter's weight and moments, flattened, from all files of a checkpoint; and the step counts in them.

    Asserts that the files hold each element exactly once.
    """
    files = [torch.load(file, weights_only=True) for file in sorted((folder / "policy").glob("rank-*.pt"))]
    sizes = files[0]["sizes"]
    found: dict[str, dict[str, Tensor]] = {name: {} for name in sizes}
    count = {name: torch.zeros(size, dtype=torch.int8) for name, size in sizes.items()}
    steps: set[float] = set()
    for file in files:
        assert file["sizes"] == sizes and file["progress"] == files[0]["progress"]
        for tensors, numbers, parts in file["flats"]:
            steps |= {float(value) for value, _ in numbers.values()}
            for name, first, start, numel in parts:
                count[name][first : first + numel] += 1
                for key, tensor in tensors.items():
                    whole = found[name].setdefault(key, torch.zeros(sizes[name], dtype=tensor.dtype))
                    whole[first : first + numel] = tensor.view(-1)[start : start + numel]
    assert all((each == 1).all() for each in count.values())
    return found, steps


def _opened(models: Path, cell: str, ranks: Ranks, *, other: bool) -> Policy:
    kind, dtype, stage, expert_parallel = cell.split(".")
    kind, _, has_lora = kind.partition("-")
    settings: dict[str, Any] = {"zero_stage": int(stage), "expert_parallel": int(expert_parallel), "warmup_steps": 4}
    settings["dtype"], _, more = dtype.partition("-")
    model = models / (f"{kind}_other" if other and not has_lora else kind)  # adapters are not loaded onto another base
    lora = LORA[kind] if has_lora else None
    return open_policy(str(model), ranks, **settings, lora=lora, freeze_vision=True, deepspeed=DEEPSPEED[more])


def _check_saved_state(policy: Policy, folder: Path) -> None:
    """Asserts that the files hold each weight and moment as DeepSpeed gathers it, which it cannot for experts or ZeRO 0."""
    state, _ = whole_state(folder)
    if link := getattr(policy.engine.optimizer, "_lazy_init_hp_params_optimizer_state", None):
        link()
    seen = 0
    for name, parameter in policy.engine.module.named_parameters():
        if not parameter.requires_grad or expert_parallel_size(parameter) > 1 or not policy.settings.zero_stage:
            continue
        expected = {"weight": safe_get_full_fp32_param(parameter)}
        expected |= {key: safe_get_full_optimizer_state(parameter, key) for key in ("exp_avg", "exp_avg_sq")}
        saved = state[name.replace(".router.gate.", ".gate.")]
        assert saved.keys() == expected.keys()
        assert all(torch.equal(saved[key], expected[key].view(-1)) for key in saved), name
        seen += 1
    assert seen or not policy.settings.zero_stage


if __name__ == "__main__":
    main(*sys.argv[1:])
