"""Every bad input that is refused before a run starts, with the sentence it gets: the source of docs/bad-input.md.

    python -m tests.preflight.bad_input_table > docs/bad-input.md

A case is a small good run with one thing spoilt: by overrides, as on the command line, or by damage to its files.
tests/preflight/test_preflight.py runs the same cases and compares the file with this table.
"""

import re
import tempfile
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import TEXTS
from tests.preflight.good_run import (
    forge,
    png,
    shard,
    spoil_shape,
    spoil_task,
    write_checkpoint,
    write_checkpoint_of_another_verifier,
    write_checkpoint_of_other_data,
    write_colours,
    write_colours_for_a_verifier_that_fails,
    write_good_run,
    write_huge_model,
    write_mixed_pair,
    write_model_config,
    write_model_without,
    write_pair,
    write_rows,
    write_unfinished_run,
    write_untied_model_without_a_head,
)
from vlrl.data.shards import NewRow
from vlrl.distributed.ranks import Ranks
from vlrl.models.tiny import build_tiny
from vlrl.preflight.full_checks import preflight
from vlrl.preflight.quick_checks import check_inputs
from vlrl.run import Run
from vlrl.run_file import load_config


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """input: what is wrong; says: a part of its sentence; damage: spoils the good run in the current folder."""

    input: str
    says: str
    overrides: tuple[str, ...] = ()
    damage: Callable[[], object] = lambda: None
    num_ranks: int = 1


CASES = [
    Case(input="an unknown key", says="did you mean 'tau_neg'?", overrides=("algorithm.tau_negative=1.05",)),
    Case(input="a wrong type", says="group_size: Input should be a valid integer", overrides=("sampling.group_size=many",)),
    Case(input="a setting left out", says="mixture.sums.rows: is missing", overrides=("mixture.sums={weight: 1}",)),
    Case(
        input="a setting of a mistyped task",
        says="mixture.sum.rows: is missing; it has no default; did you mean mixture.sums?",
        overrides=("mixture.sum.weight=2",),
    ),
    Case(input="an override without a value", says="as policy.lr=value", overrides=("policy.lr",)),
    Case(input="an override with blanks around its =", says="as steps=4", overrides=("steps", "=", "4")),
    Case(input="an override written as an option", says="without dashes: steps=4", overrides=("--steps", "4")),
    Case(input="a negative weight", says="weight: Input should be greater than 0", overrides=("mixture.sums.weight=-1",)),
    Case(
        input="a task called mean",
        says="a task cannot be called mean",
        overrides=("mixture.mean={weight: 1, rows: data/sums, task: sums}",),
    ),
    Case(input="a weight without a slot in any step", says="gets no prompt in 4 steps", overrides=("mixture.sums.weight=0.01",)),
    Case(input="a tau that is not positive", says="algorithm.tau_neg", overrides=("algorithm.tau_neg=0",)),
    Case(input="one mini-batch: SAPO's gate never acts", says="every ratio is 1", overrides=("algorithm.minibatches=1",)),
    Case(input="a batch that cannot be split", says="5 prompts do not split into 2", overrides=("prompts_per_step=5",)),
    Case(input="a group of one", says="mixture.sums.group_size", overrides=("mixture.sums.group_size=1",)),
    Case(
        input="GSPO with GRPO's clip bounds",
        says="never clip under gspo",
        overrides=("algorithm={gate: gspo, clip_low: 0.2, clip_high: 0.27}",),
    ),
    Case(
        input="bfloat16 at ZeRO stage 0",
        says="use zero_stage: 1",
        overrides=("policy.dtype=bfloat16", "policy.zero_stage=0"),
    ),
    Case(
        input="an offloaded optimizer at ZeRO stage 0",
        says="requires zero_stage 1, 2 or 3, got 0",
        overrides=("policy.offload_optimizer=true", "policy.zero_stage=0"),
    ),
    Case(
        input="expert parallel under ZeRO-3",
        says="requires zero_stage 1 or 2, got 3",
        overrides=("policy.expert_parallel=2", "policy.zero_stage=3"),
    ),
    Case(
        input="expert parallel with routing replay",
        says="cannot be used with routing replay",
        overrides=("policy.expert_parallel=2", "algorithm.routing_replay=r2"),
    ),
    Case(
        input="replay of a pass that is left out",
        says="r2 replays the experts of the old policy's pass, which old_policy: engine leaves out",
        overrides=("algorithm.old_policy=engine", "algorithm.routing_replay=r2"),
    ),
    Case(
        input="adapters in a part that the model lacks",
        says="'experts' is not a part of this 'qwen3_vl'",
        overrides=("lora={rank: 8, targets: [attention, experts]}",),
    ),
    Case(input="adapters of a rank above a layer's size", says="lora.rank: 100 is above 64", overrides=("lora={rank: 100}",)),
    Case(
        input="adapters in an unknown part",
        says="lora.targets.0: Input should be 'attention', 'mlp', 'gdn', 'experts', 'merger' or 'vision'",
        overrides=("lora={rank: 8, targets: [attn]}",),
    ),
    Case(
        input="adapters with expert parallel",
        says="policy.expert_parallel: cannot be used with lora",
        overrides=("lora={rank: 8}", "policy.expert_parallel=2", "policy.zero_stage=1"),
    ),
    Case(
        input="experts' adapters in vLLM",
        says="lora.sync: vLLM serves no adapters of experts",
        overrides=("lora={rank: 8, targets: [experts], sync: adapter}",),
    ),
    Case(
        input="settings of a rollback that is not asked for",
        says="has no effect with on_collapse: warn",
        overrides=("rollback.times=2",),
    ),
    Case(
        input="a rollback without a checkpoint to go back to",
        says="every times keep must be at least 5",
        overrides=("on_collapse=rollback", "checkpoints.every=0"),
    ),
    Case(
        input="a rollback by a signal that is not watched",
        says="Input should be 'reward', 'entropy', 'length' or 'ratio'",
        overrides=("on_collapse=rollback", "rollback.signals=[loss]"),
    ),
    Case(
        input="a rollback by no signal",
        says="rollback.signals: is empty",
        overrides=("on_collapse=rollback", "rollback.signals=[]"),
    ),
    Case(input="responses as long as the context", says="leave no room for a prompt", overrides=("sampling.max_new_tokens=256",)),
    Case(input="smallest image above the largest", says="is above images.max_pixels", overrides=("images.min_pixels=99999",)),
    Case(
        input="ranks that do not fill the engines",
        says="3 ranks are not divisible by 2",
        overrides=("engine.tensor_parallel=2",),
        num_ranks=3,
    ),
    Case(input="a task that no folder has", says="no task 'suns'", overrides=("mixture.suns={weight: 1, rows: data/sums}",)),
    Case(
        input="a task file without verify",
        says="must define verify",
        damage=lambda: spoil_task("def verify", "def score"),
    ),
    Case(
        input="EXAMPLES that its verifier does not reproduce",
        says="EXAMPLES[1] expects 1.0, but verify gives 0.0",
        damage=lambda: spoil_task('"3"), 0.0)', '"3"), 1.0)'),
    ),
    Case(
        input="a task file that fails when it is loaded",
        says="cannot be imported: NameError: name 'score' is not defined (tasks/sums.py:",
        damage=lambda: spoil_task("EXAMPLES =", "score\nEXAMPLES ="),
    ),
    Case(
        input="a verifier that fails on a response without an answer",
        says="verify gives error for the response '' to row 00000000: IndexError",
        damage=lambda: spoil_task("answer = last_boxed(response)", "answer = response[0] and last_boxed(response)"),
    ),
    Case(
        input="a verifier that expects a second word",
        says="verify gives error for the response 'yes' to row 00000000: IndexError",
        damage=lambda: spoil_task("answer =", 'response.startswith("yes") and response.split()[1]\n    answer ='),
    ),
    Case(
        input="another task's rows under a verifier that fails on them",
        says="or are these another task's rows? data/colours was made by the recipe 'colours'",
        overrides=("mixture.sums.rows=data/colours",),
        damage=write_colours_for_a_verifier_that_fails,
    ),
    Case(
        input="a prompt function that fails",
        says="prompt fails for row 00000000 (KeyError: 'hint')",
        damage=lambda: spoil_task("row.question}", 'row.meta["hint"]}'),
    ),
    Case(
        input="a data set that was never built",
        says="is not a complete data set",
        overrides=("mixture.sums.rows=data/nowhere", "mixture.shapes.rows=data/neither"),
    ),
    Case(
        input="the folder above a data set",
        says="did you mean data/more/train?",
        overrides=("mixture.sums.rows=data/more",),
        damage=lambda: write_rows("more/train", NewRow(question="1 + 1?", answer="2")),
    ),
    Case(input="a mistyped data set", says="did you mean data/shapes?", overrides=("mixture.shapes.rows=data/shape",)),
    Case(
        input="another task's rows",
        says="sums rejects 8 of 8 checked own answers",
        overrides=("mixture.sums.rows=data/colours",),
        damage=write_colours,
    ),
    Case(input="a missing shard", says="is missing, but the manifest says", damage=lambda: shard("sums").unlink()),
    Case(input="a torn shard", says="has 700 bytes", damage=lambda: shard("sums").write_bytes(shard("sums").read_bytes()[:700])),
    Case(
        input="a shard with other bytes",
        says="its sha256 is not the manifest's",
        damage=lambda: shard("sums").write_bytes(shard("sums").read_bytes().replace(b'"2"', b'"3"')),
    ),
    Case(input="fewer rows than one step draws", says="its data set has 8 rows", overrides=("prompts_per_step=20",)),
    Case(
        input="an evaluation set without rows",
        says="has no rows",
        overrides=("mixture.sums.eval_rows=data/none",),
        damage=lambda: write_rows("none"),
    ),
    Case(
        input="a build's folder in place of its train",
        says="did you mean data/pair/train?",
        overrides=("mixture.sums.rows=data/pair",),
        damage=lambda: write_pair(0),
    ),
    Case(
        input="train and eval of different builds",
        says="are from different builds",
        overrides=("mixture.sums.rows=data/pair/train", "mixture.sums.eval_rows=data/pair/eval"),
        damage=write_mixed_pair,
    ),
    Case(
        input="an evaluation set with rows of the training set",
        says="1 of 5 rows of data/held_out are also in data/sums,",
        overrides=("mixture.sums.eval_rows=data/held_out",),
        damage=lambda: write_rows("held_out", *(NewRow(question=f"What is {n} + 2?", answer=str(n + 2)) for n in range(7, 12))),
    ),
    Case(
        input="an evaluation set that is the training set",
        says="eval_rows data/sums has the same rows as data/sums",
        overrides=("mixture.sums.eval_rows=data/sums",),
    ),
    Case(
        input="responses too short for any answer",
        says="data/sums: all 8 own answers are longer than max_new_tokens 2 ",
        overrides=("mixture.sums.max_new_tokens=2",),
    ),
    Case(
        input="a row without an answer",
        says="no answer and no meta",
        damage=lambda: forge(b'"answer": "2", "meta": {"level": 1}', b'"answer": "", "meta": {           }'),
    ),
    Case(
        input="a reference that the verifier cannot use",
        says="'two' is not a number",
        damage=lambda: write_rows("sums", *[NewRow(question="1 + 1?", answer="two")] * 4),
    ),
    Case(input="a video row", says="has a video", damage=lambda: forge(b'"level"', b'"video"')),
    Case(
        input="fewer rows than a batch of the cold start",
        says="cold start: mixture: task 'sums' needs 32 prompts",
        overrides=("coldstart.steps=1",),
    ),
    Case(
        input="a row without the response that a cold start learns from",
        says="no response to learn from",
        overrides=("coldstart.steps=1", "coldstart.batch_size=4"),
    ),
    Case(input="a broken image", says="its pixels are broken", damage=lambda: spoil_shape(png(64, 64)[:50])),
    Case(input="a huge image", says="3600000000 pixels", damage=lambda: spoil_shape(png(60000, 60000, pixels=False))),
    Case(input="an image with a long side", says="20000 x 9 pixels", damage=lambda: spoil_shape(png(20000, 9, pixels=False))),
    Case(input="an image of zero size", says="has no pixels", damage=lambda: spoil_shape(png(0, 0, pixels=False))),
    Case(input="an image of extreme proportions", says="cannot be used", damage=lambda: spoil_shape(png(4000, 8))),
    Case(
        input="a prompt longer than the context",
        says="exceeds engine.max_model_len 256",
        damage=lambda: write_rows("sums", *[NewRow(question="1 + " * 200, answer="200")] * 4),
    ),
    Case(
        input="a model whose files lack a tensor",
        says="lacks 1 (model.language_model.norm.weight) of",
        overrides=("model=models/other",),
        damage=lambda: write_model_without("model.language_model.norm.weight"),
    ),
    Case(
        input="a model without a head, which its config.json does not tie to the embedding",
        says="set tie_word_embeddings to true",
        overrides=("model=models/other",),
        damage=write_untied_model_without_a_head,
    ),
    Case(
        input="a model that is not a Qwen-VL",
        says="is a 'qwen3'",
        overrides=("model=models/other",),
        damage=lambda: write_model_config(model_type="qwen3"),
    ),
    Case(input="the folder above a model", says="did you mean models/tiny?", overrides=("model=models",)),
    Case(input="a mistyped model", says="there is no such folder; did you mean models/tiny?", overrides=("model=models/tyni",)),
    Case(
        input="the model of a run that has not ended",
        says="the run runs/first has no model yet, since a run writes it at its end",
        overrides=("model=runs/first/model",),
        damage=write_unfinished_run,
    ),
    Case(
        input="a context longer than the model's",
        says="set engine.max_model_len to 4096 or less",
        overrides=("engine.max_model_len=8192",),
    ),
    Case(
        input="routing replay of a dense model",
        says="is a dense model without experts to replay",
        overrides=("algorithm.routing_replay=r2",),
    ),
    Case(
        input="expert parallel of a dense model",
        says="is a dense model without experts; remove",
        overrides=("policy.expert_parallel=2",),
    ),
    Case(
        input="too little disk",
        says="are free; lower checkpoints.keep",
        overrides=("model=models/other",),
        damage=write_huge_model,
    ),
    Case(
        input="a reward of a part that no score has",
        says="no score of tasks/sums.py has a part 'boxd'",
        overrides=("mixture.sums.reward.weights={reward: 1, boxd: 0.1}",),
    ),
    Case(
        input="an unknown key of a task's reward",
        says="did you mean 'weights'?",
        overrides=("mixture.sums.reward={weight: 1}",),
    ),
    Case(
        input="a tau of a task under a gate without one",
        says="mixture.sums: tau_pos, tau_neg are the sapo gate's, and algorithm.gate is grpo",
        overrides=("mixture.sums.tau_neg=2", "algorithm.gate=grpo"),
    ),
    Case(
        input="an instruction for a task that has none",
        says="tasks/sums.py: the prompt has no INSTRUCTION",
        overrides=("mixture.sums.instruction=Be brief.",),
    ),
    Case(
        input="a resume with another config",
        says="policy.lr was 1e-06 in the checkpoint, 1e-05 now",
        overrides=("policy.lr=1e-5",),
        damage=write_checkpoint,
    ),
    Case(
        input="a resume with another rollback",
        says="rollback.scale_lr was 0.5 in the checkpoint, 0.25 now",
        overrides=("on_collapse=rollback", "rollback={scale_lr: 0.25, times: 3}"),
        damage=lambda: write_checkpoint("on_collapse=rollback"),
    ),
    Case(
        input="a resume with other data",
        says="data.sums was ",
        damage=write_checkpoint_of_other_data,
    ),
    Case(
        input="a resume after a verifier was edited",
        says="task_files.sums was sums.py ",
        damage=write_checkpoint_of_another_verifier,
    ),
    Case(
        input="several faults, one of them that the run exists",
        says="cannot resume",
        overrides=("engine.max_model_len=8192", "mixture.shapes.weight=2"),
        damage=write_checkpoint,
    ),
]


def open_checked(case: Case, model: Path, folder: Path) -> Run:
    """The case's run, made in the empty `folder` and checked there."""
    with chdir(folder):
        write_good_run(model)
        case.damage()
        config = load_config(Path("run.yaml"), case.overrides)
        check_inputs(config, world_size=case.num_ranks)
        return preflight(config, Ranks(0, case.num_ranks, 0))


def sentence(case: Case, model: Path, folder: Path) -> str:
    """What the case's user reads, without what depends on the machine or the verifiers; empty where nothing is refused."""
    try:
        open_checked(case, model, folder)
    except ValueError as error:
        printed = re.sub(r"[\d.]+ GB are free", "N GB are free", str(error).replace(f"{folder}/", ""))
        return re.sub(r"(\.py) [0-9a-f]{16}\b", r"\1 FINGERPRINT", printed)
    return ""


def table(sentence_of: Callable[[Case], str]) -> str:
    lines = [
        "# Bad input",
        "",
        "What `vlrl train` refuses before it starts, and what it prints. Made by `python -m tests.preflight.bad_input_table`;",
        "a test compares the two.",
        "",
        "| input | sentence |",
        "|---|---|",
    ]
    for case in CASES:
        spans = [f"`` {line} ``".replace("|", "\\|") for line in sentence_of(case).splitlines()]
        lines.append(f"| {case.input} | {'<br>'.join(spans)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        build_tiny(model, TEXTS)
        print(table(lambda case: sentence(case, model, Path(tempfile.mkdtemp(dir=scratch)))), end="")


if __name__ == "__main__":
    main()
