"""A policy saved on some ranks goes on with others: every parameter, moment and step count is there, the losses are the same."""

from pathlib import Path

import pytest
import torch

from tests.conftest import TEXTS
from tests.loop import on_ranks
from tests.trainer.reshape_on_ranks import UPDATES, run_jobs, whole_state
from vlrl.models.families.qwen3_vl_moe import QWEN3_VL_MOE
from vlrl.models.tiny import build_tiny

FP32 = 1e-5
BF16 = 2e-2  # one bit in eight: gradients are sums in another order

QUICK = [  # on two ranks -> on one; all with a frozen vision tower
    ("dense.float32.3.1", "dense.float32.3.1"),
    ("moe.float32.2.2", "moe.float32.2.1"),
    ("dense.bfloat16.1.1", "dense.bfloat16.1.1"),
    ("dense-lora.float32.2.1", "dense-lora.float32.3.1"),
]
KINDS = [f"{kind}.float32.{stage}.1" for kind in ("dense", "moe") for stage in (1, 2, 3)]
MORE = [f"dense.{how}.{stage}.1" for how in ("bfloat16", "bfloat16-fp32gradients", "bfloat16-offloaded") for stage in (1, 2, 3)]
TABLE = [  # (ranks, saved cell, ranks, resumed cell)
    *[(2, cell, 1, cell) for cell in KINDS],
    *[(1, cell, 2, cell) for cell in KINDS],
    *[(2, cell, 3, cell) for cell in [*KINDS, *MORE]],
    *[(2, f"moe.float32.{stage}.2", 1, f"moe.float32.{stage}.1") for stage in (1, 2)],
    *[(2, f"moe.float32.{stage}.2", 3, f"moe.float32.{stage}.1") for stage in (1, 2)],
    *[(1, f"moe.float32.{stage}.1", 2, f"moe.float32.{stage}.2") for stage in (1, 2)],
    *[(2, f"dense.float32.{stage}.1", 3, f"dense.float32.{other}.1") for stage, other in [(1, 3), (2, 1), (3, 2), (0, 3)]],
    *[(2, f"dense.float32.{stage}.1", 1, "dense.float32.0.1") for stage in (0, 3)],
    (2, "moe.float32.2.2", 2, "moe.float32.3.1"),
    *[(2, f"moe-lora.float32.{stage}.1", 3, f"moe-lora.float32.{other}.1") for stage, other in [(1, 3), (3, 2)]],
    (1, "dense-lora.bfloat16.1.1", 2, "dense-lora.bfloat16.1.1"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """dense and moe, and the same with other weights, which are there when a checkpoint is loaded."""
    root = tmp_path_factory.mktemp("models")
    for seed, suffix in enumerate(["", "_other"]):
        build_tiny(root / f"dense{suffix}", TEXTS, seed=seed)
        build_tiny(root / f"moe{suffix}", TEXTS, family=QWEN3_VL_MOE, seed=seed)
    return root


def check(folder: Path, case: tuple[int, str, int, str]) -> None:
    before, saved, after, resumed = case
    old, new = folder / f"{saved}.on{before}", folder / f"{resumed}@{saved}.on{before}.on{after}"
    (expected, steps), (state, steps_after) = whole_state(old), whole_state(new)
    assert state.keys() == expected.keys()
    assert all(state[name][key].equal(expected[name][key]) for name in expected for key in {**expected[name], **state[name]})
    assert steps == steps_after == {float(UPDATES["before"])}
    unchanged, continued = torch.load(f"{old}.pt"), torch.load(f"{new}.pt")
    losses, expected_losses = continued.pop("losses"), unchanged.pop("losses")
    assert continued == unchanged and unchanged["version"] == UPDATES["before"]
    assert len(set(losses)) == UPDATES["after"]
    assert losses == pytest.approx(expected_losses, rel=BF16 if "bfloat16" in saved else FP32)


@pytest.mark.slow
def test_one_rank_goes_on_from_what_two_have_saved(models, pictures, ranks, tmp_path):
    on_ranks(2, "tests.trainer.reshape_on_ranks", models, ",".join(pictures), tmp_path, *[saved for saved, _ in QUICK])
    run_jobs(models, pictures, tmp_path, tuple(f"{resumed}@{saved}.on2" for saved, resumed in QUICK), ranks)
    for saved, resumed in QUICK:
        check(tmp_path, (2, saved, 1, resumed))


@pytest.fixture(scope="module")
def resumed(models, pictures, tmp_path_factory) -> Path:
    """The folder in which every cell of the table was saved and resumed."""
    folder = tmp_path_factory.mktemp("reshaped")
    saves = [(size, sorted({saved for before, saved, _, _ in TABLE if before == size})) for size in (1, 2)]
    resumes = [
        (size, [f"{cell}@{saved}.on{before}" for before, saved, after, cell in TABLE if after == size]) for size in (1, 2, 3)
    ]
    for size, jobs in saves + resumes:
        for begin in range(0, len(jobs), 6):  # so that each process ends in time
            some = jobs[begin : begin + 6]
            on_ranks(size, "tests.trainer.reshape_on_ranks", models, ",".join(pictures), folder, *some)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", TABLE, ids=lambda case: "{1} on {0} to {3} on {2}".format(*case))
def test_a_policy_saved_on_some_ranks_goes_on_with_others(resumed, case):
    check(resumed, case)
