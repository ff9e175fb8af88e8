"""The whole loop through its command, with the real engine and trainer: what it leaves, exact resume, export, two ranks."""

import os
import re
import shutil
import signal
import time
from itertools import groupby
from pathlib import Path

import pytest
import torch

from tests.conftest import needs_a_jail
from tests.loop import DEEPSPEED, SMALL_STEPS, TORCHRUN, Loop, finished, python, same_weights
from tests.trainer.reshape_on_ranks import whole_state
from vlrl.data.images import open_image
from vlrl.data.mixture import Mixture
from vlrl.data.shards import NewRow, write_dataset
from vlrl.distributed.checkpoint import newest_good
from vlrl.run_file import load_config
from vlrl.sandbox import jail

STEPS = SMALL_STEPS


@pytest.fixture(scope="session")
def dense(small) -> Loop:
    """A dense run that nothing interrupts."""
    loop = small.with_(name="dense")
    loop.run()
    return loop


@pytest.fixture(scope="session")
def moe(small, tiny_moe) -> Loop:
    """A run of a mixture of experts, along its old routes, that nothing interrupts."""
    loop = small.with_(name="moe", model=tiny_moe, algorithm__routing_replay="r2")
    loop.run()
    return loop


@pytest.fixture(params=["dense", "moe"])
def straight(request) -> Loop:
    return request.getfixturevalue(request.param)


def copied(loop: Loop, name: str, *parts: str, **overrides) -> Loop:
    """A run of another name that starts from these parts of a run's folder."""
    copy = loop.with_(name=name, **overrides)
    for part in parts or [path.name for path in loop.folder.iterdir()]:
        whole = (loop.folder / part).is_dir()
        copy.folder.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if whole else shutil.copy)(loop.folder / part, copy.folder / part)
    return copy


def check_files(loop: Loop, steps: int) -> None:
    """Everything that a finished run leaves, in the format that is promised."""
    assert [line["step"] for line in loop.metrics] == list(range(1, steps + 1))
    planned = [(s, slot, n) for s in range(1, steps + 1) for slot in range(loop.overrides["prompts_per_step"]) for n in range(4)]
    assert [(line["step"], line["slot"], line["sample"]) for line in loop.rollouts if line["round"] == 0] == planned
    check_refills(loop.rollouts)
    pictures = {
        part["image"]
        for line in loop.rollouts
        for message in line["messages"]
        for part in message["content"]
        if part["type"] == "image"
    }
    assert pictures
    assert all(open_image(picture, max_side=1024).size > (0, 0) for picture in pictures)
    assert loop.summary["tasks"].keys() == loop.overrides["mixture"].keys()
    for values in [loop.summary["mean"], *loop.summary["tasks"].values()]:
        assert all(0 <= values[at] <= 1 for at in ("before", "after"))
    samples = {"digits": ["1", "2", "3"]}
    for task, values in loop.summary["tasks"].items():
        assert list(values["pass_after"]) == list(values["pass_before"]) == samples.get(task, ["1", "2"])
    assert load_config(loop.folder / "config.yaml").folder == loop.folder
    assert list(loop.folder.glob("wandb/offline-run-*/*.wandb"))
    assert loop.checkpoints()[-1] == steps
    assert not same_weights(loop.weights("model"), loop.weights("coldstart"))


def check_refills(rollouts: list[dict]) -> None:
    """A group of equal rewards alone is replaced, by one of another row of its task, and every group stands for itself."""
    assert any(line["round"] == 1 for line in rollouts)
    groups = {key: list(lines) for key, lines in groupby(rollouts, key=lambda line: (line["step"], line["slot"], line["round"]))}
    for (step, slot, turn), lines in groups.items():
        assert (turn == 0 and (step, slot, 1) in groups) == (not turn and len({line["reward"] for line in lines}) == 1)
        assert turn == 0 or lines[0]["task"] == groups[step, slot, 0][0]["task"]
    rows = [(step, lines[0]["task"], lines[0]["row"]) for (step, _, _), lines in groups.items()]
    assert len(set(rows)) == len(rows)


def test_three_steps_of_the_command_leave_what_is_promised(small):
    loop = small.with_(name="smoke", steps=3, coldstart__steps=2)
    printed = loop.run()
    phases = ("Checking the data", "Loading PyTorch", "Loading the model for the cold start", "Loading the model\n")
    places = [printed.index(phase) for phase in (*phases, "Starting vLLM", "Starting the verifiers", "Writing the model")]
    assert places == sorted(places)
    check_files(loop, 3)


@pytest.mark.slow
def test_a_run_leaves_what_is_promised(straight):
    check_files(straight, STEPS)
    assert straight.checkpoints() == [STEPS - 2, STEPS]


@pytest.mark.slow
def test_transformers_loads_the_exported_model_as_the_last_checkpoint_has_it(straight):
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(
        straight.folder / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    saved, _ = whole_state(straight.folder / f"checkpoints/step-{STEPS:06d}")
    loaded = {f"qwen.{name}": parameter for name, parameter in model.named_parameters()}
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(loaded[name].view(-1), tensors["weight"]) for name, tensors in saved.items())


EXPORTED = """
import sys
from pathlib import Path
from vlrl.run_file import load_config
from vlrl.trainer.policy import Policy
from vlrl.distributed.ranks import join_ranks
from vlrl.rollout.canary import Canary
from vlrl.rollout.vllm_local import VllmEngine
from vlrl.run import open_run

folder = Path(sys.argv[1])
config = load_config(folder / "config.yaml", (f"model={folder / 'model'}",))
ranks = join_ranks()
run = open_run(config, ranks)
policy = Policy(config.policy, config.model, ranks=ranks, updates=1, temperature=1.0, banned=run.banned)
encoder = run.encoder
engine = VllmEngine(config.engine, config.model, dtype="float32", seed=0, end_tokens=encoder.end_tokens,
                    banned=run.banned, merge_size=encoder.merge_size, family=encoder.family, ranks=ranks)
canary = Canary(policy, engine, encoder, temperature=1.0, tolerance=10.0)
print("difference", canary.baseline)
"""


@pytest.mark.slow
def test_vllm_gives_the_exported_model_the_trainer_s_logprobs_on_text_and_an_image(straight):
    printed = finished(python("-c", EXPORTED, straight.folder))
    assert float(printed.split("difference")[1].split()[0]) < 1e-5


@pytest.mark.slow
def test_a_run_without_held_out_rows_ends_with_its_model(small):
    mixture = {task: {**mix, "eval_rows": None} for task, mix in small.overrides["mixture"].items()}
    loop = small.with_(name="unevaluated", mixture=mixture, steps=1, coldstart__steps=0)
    assert "Nothing was evaluated" in loop.run()
    assert loop.weights() and loop.summary["tasks"] == {}


@pytest.mark.slow
def test_a_run_stopped_twice_by_sigterm_equals_the_uninterrupted_one(small, dense):
    loop = small.with_(name="stopped", checkpoints__every=0)
    # The log opens after the handler is in place and before the first evaluation, which is then not waited for.
    assert "begins again with the evaluation before the first step" in loop.interrupted(signal.SIGTERM, "log opened", 1)
    assert (loop.checkpoints(), loop.metrics) == ([], [])
    assert not (loop.folder / "evaluated_before.json").exists()
    assert same_weights(loop.weights("coldstart"), dense.weights("coldstart"))

    loop.interrupted(signal.SIGTERM, "optimizer step", 2 * 2 + 1)  # between the two of step 3, which is then finished
    assert loop.checkpoints()[-1] == len(loop.metrics) == 3
    assert "Stopped" not in loop.run()
    check_equal(loop, dense)


@pytest.mark.slow
def test_a_run_killed_between_two_saves_equals_the_uninterrupted_one(moe):
    loop = copied(moe, "killed", "coldstart")
    loop.interrupted(signal.SIGKILL, "step logged", 3, exit_code=-signal.SIGKILL)
    assert loop.checkpoints()[-1] == 2
    loop.run()
    check_equal(loop, moe)


@pytest.fixture(scope="session")
def adapted(small) -> Loop:
    """A run of adapters, from its cold start on, that nothing interrupts."""
    loop = small.with_(name="adapted", lora={"rank": 4}, policy__lr=1e-3, algorithm__kl_coefficient=0.01)
    loop.run()
    return loop


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["merged", "adapter"])
def test_a_killed_run_of_adapters_equals_the_uninterrupted_one(small, adapted, sync):
    straight = adapted if sync == "merged" else copied(adapted, "straight-adapter", "coldstart", lora={"rank": 4, "sync": sync})
    if straight is not adapted:
        straight.run()
    check_files(straight, STEPS)
    loop = copied(straight, f"killed-{sync}", "coldstart")
    loop.interrupted(signal.SIGKILL, "step logged", 3, exit_code=-signal.SIGKILL)
    assert loop.checkpoints()[-1] == 2
    loop.run()
    check_equal(loop, straight)
    assert same_weights(loop.weights("adapter"), straight.weights("adapter"))


@pytest.mark.slow
def test_the_model_of_a_run_of_adapters_is_its_cold_start_with_the_adapter_added(adapted):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(adapted.folder / "coldstart", dtype=torch.float32)
    added = PeftModel.from_pretrained(base, adapted.folder / "adapter").merge_and_unload()
    exported = AutoModelForImageTextToText.from_pretrained(adapted.folder / "model", dtype=torch.float32)
    before = adapted.weights("coldstart")
    weights = dict(added.named_parameters())
    assert any(not weight.equal(before[name]) for name, weight in adapted.weights("model").items())
    for name, weight in exported.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_run_of_the_whole_model_is_not_resumed_with_adapters(dense):
    printed = finished(dense.with_(lora={"rank": 4}, policy__lr=1e-6).start(), exit_code=2)
    assert "lora was absent in the checkpoint, {rank: 4, alpha: 32, sync: auto} now" in printed


@pytest.mark.slow
def test_a_run_of_any_family_that_is_killed_equals_the_uninterrupted_one(small, any_model):
    family = Path(any_model).name
    whole = small.with_(name=family, model=any_model, steps=4)
    whole.run()
    loop = copied(whole, f"{family}-killed", "coldstart")
    loop.interrupted(signal.SIGKILL, "step logged", 3, exit_code=-signal.SIGKILL)
    assert loop.checkpoints()[-1] == 2
    loop.run()
    check_equal(loop, whole)


@pytest.mark.slow
def test_a_cold_start_that_is_stopped_says_that_it_begins_again(small):
    loop = small.with_(name="cold", coldstart__steps=500)
    printed = loop.interrupted(signal.SIGTERM, "optimizer step", 3)
    assert "vlrl: stopped by SIGTERM; the same command begins the cold start again" in printed


def check_equal(loop: Loop, other: Loop) -> None:
    assert loop.steady_metrics == other.steady_metrics
    assert loop.rollouts == other.rollouts
    assert same_weights(loop.weights(), other.weights())
    assert loop.summary == other.summary


@pytest.mark.slow
def test_a_longer_run_resumes_from_the_checkpoint_before_a_damaged_one(dense):
    loop = copied(dense, "longer", steps=STEPS + 1)
    damaged = next((loop.folder / f"checkpoints/step-{STEPS:06d}").rglob("rank-*.pt"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    printed = loop.run()
    kept = STEPS - 2
    assert f"falling back to step-{kept:06d}" in printed
    assert loop.steady_metrics[:kept] == dense.steady_metrics[:kept]
    # What it goes on from is the saved state: the next step's rollouts are the other run's, though its rate decays more slowly.
    assert _of_step(kept + 1, loop.rollouts) == _of_step(kept + 1, dense.rollouts)
    assert loop.metrics[kept]["policy/lr"] > dense.metrics[kept]["policy/lr"]
    check_files(loop, STEPS + 1)
    root = loop.folder / "checkpoints"
    shutil.rmtree(root / f"step-{STEPS + 1:06d}")
    assert newest_good(root).step == STEPS, "the damaged checkpoint was not replaced"


def _of_step(step: int, lines: list[dict]) -> list[dict]:
    return [line for line in lines if line["step"] == step]


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(dense):
    before = {path: path.stat().st_mtime_ns for path in dense.folder.rglob("*")}
    assert "before" in dense.run()
    assert {path: path.stat().st_mtime_ns for path in dense.folder.rglob("*")} == before


@pytest.mark.slow
def test_another_learning_rate_is_refused_at_a_resume(dense):
    was = load_config(dense.folder / "config.yaml").policy.lr
    printed = finished(dense.with_(policy__lr=was / 2).start(), exit_code=2)
    assert f"policy.lr was {was} in the checkpoint, {was / 2} now" in printed


@pytest.mark.slow
def test_two_ranks_run_the_loop_and_resume_after_sigterm(small):
    loop = small.with_(name="ranks", launcher=TORCHRUN, policy__zero_stage=2, steps=4)
    # The launcher hands the signal to the ranks and ends with a code of its own.
    loop.interrupted(signal.SIGTERM, "step logged", 1, exit_code=None)
    assert (saved := loop.checkpoints()[-1]) == len(loop.metrics) < 4
    longer = loop.with_(steps=5)
    printed = longer.run()
    assert f"continues after step {saved}" in printed and "The run had 4 steps and has 5 now" in printed
    check_files(longer, 5)


@pytest.mark.slow
def test_two_ranks_go_on_with_what_one_began(dense):
    loop = copied(dense, "two_go_on", launcher=TORCHRUN, policy__zero_stage=3)
    shutil.rmtree(loop.folder / f"checkpoints/step-{STEPS:06d}")
    kept, printed = STEPS - 2, loop.run()
    assert f"Checkpoint step-{kept:06d} is laid out anew (world_size 1 -> 2, policy.zero_stage 1 -> 3)" in printed
    assert f"{loop.folder} continues after step {kept}" in printed and "Cold start" not in printed
    assert loop.steady_metrics[:kept] == dense.steady_metrics[:kept]
    for line, expected in zip(loop.steady_metrics[kept:], dense.steady_metrics[kept:], strict=True):
        assert {name for name in line if not name.startswith("balance/")} == {n for n in expected if not n.startswith("balance/")}
        assert line == pytest.approx(
            expected | {name: line[name] for name in line if name.startswith("balance/")}, rel=1e-3, abs=1e-6
        )
    sampled = [{name: line[name] for name in ("step", "slot", "sample", "row", "response")} for line in loop.rollouts]
    assert sampled == [{name: line[name] for name in sampled[0]} for line in dense.rollouts]


@pytest.mark.slow
def test_the_deepspeed_launcher_runs_the_loop_on_two_ranks(small):
    loop = small.with_(name="deepspeed", launcher=DEEPSPEED, policy__zero_stage=3, steps=2, coldstart__steps=2)
    loop.run()
    check_files(loop, 2)


JAILED = '''"""jailed: even lengths are right, if the jail still runs code."""

from vlrl.types import Row, Score
from vlrl.verifiers.code import score_calls


def prompt(row):
    return [{"role": "user", "content": row.question}]


def verify(response, row):
    code = score_calls("```python\\ndef f(x): return x\\n```", "f", [[[1], 1]])
    return Score(reward=float(code.reward and len(response) % 2 == 0))


EXAMPLES = [("ab", Row(), 1.0), ("abc", Row(), 0.0)]
'''


def rows_and_held_out(folder, rows):
    """The places of these rows and of a few others, written as a task's data sets."""
    held_out = [NewRow(question=f"Held-out row {n}?", answer="1", response="ab") for n in range(4)]
    for name, of_set in (("rows", rows), ("held_out", held_out)):
        write_dataset(folder / name, of_set, source="made up", licence="none", recipe="test", recipe_version=1)
    return {"rows": folder / "rows", "eval_rows": folder / "held_out"}


@needs_a_jail
@pytest.mark.slow
def test_a_jail_that_dies_stops_the_run_with_its_reason(small, tmp_path, monkeypatch):
    (tmp_path / "jailed.py").write_text(JAILED)
    (tmp_path / "bwrap").write_text(f'#!/bin/sh\n[ -e {tmp_path}/dead ] && exit 1\nexec {jail._bwrap()} "$@"\n')
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    rows = [NewRow(question=f"Row {n}?", answer="1", response="ab") for n in range(24)]
    task = {"jailed": {"weight": 1, **rows_and_held_out(tmp_path, rows)}}
    loop = small.with_(
        name="dead", sampling__dynamic_sampling_rounds=0, mixture=task, task_folders=[tmp_path], coldstart__steps=0, steps=200
    )
    process = loop.start()
    while not loop.metrics and process.poll() is None:
        time.sleep(0.1)
    (tmp_path / "dead").touch()
    printed = finished(process, exit_code=2)
    assert re.search(r"step \d+: \d+ of the last \d+ rollouts of task jailed have no verdict, more than", printed), printed
    assert "most often: error, RuntimeError: the process for a solution did not start" in printed
    assert loop.metrics[0]["scoring/failed"] == 0 < loop.metrics[-1]["scoring/failed"]


@pytest.mark.slow
def test_broken_verifications_are_counted_and_masked_and_too_many_stop_the_run(small, tmp_path):
    num_rows, prompts = 24, small.overrides["prompts_per_step"]
    mixture = Mixture({"even_length": 1}, {"even_length": num_rows}, prompts_per_step=prompts, minibatches=2, steps=3, seed=0)
    few = {mixture.draw(0)[0].index}
    many = {draw.index for draw in mixture.draw(1)[: prompts // 2]}
    rows = [NewRow(question=f"Row {n}?", answer="raise" if n in few | many else "fine", response="ab") for n in range(num_rows)]
    task = {"even_length": {"weight": 1, **rows_and_held_out(tmp_path, rows)}}
    loop = small.with_(name="failing", sampling__dynamic_sampling_rounds=0, mixture=task, coldstart__steps=0, steps=3)

    printed = finished(loop.start(), exit_code=2)
    assert "step 1: 4 of the last 32 rollouts of task even_length have no verdict and count in no average" in printed
    assert "step 2: 20 of the last 64 rollouts of task even_length have no verdict, more than scoring.max_failed_share" in printed
    assert "most often: error, RuntimeError: this row breaks the verifier (tasks/even_length.py:13)" in printed
    first, second = loop.metrics
    assert (first["scoring/failed/even_length"], second["scoring/error/even_length"]) == (1 / prompts, 0.5)
    broken = [line for line in loop.rollouts if line["status"] == "error"]
    assert len(broken) == 4 + 16
    assert all(line["advantage"] == 0 and "this row breaks the verifier" in line["detail"] for line in broken)
    assert first["policy/skipped/minibatch_1"] == 0
