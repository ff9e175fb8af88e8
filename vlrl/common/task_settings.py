"""A task of the mixture: its rows, its share, its lengths, and how its reward is composed and scored."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vlrl.common.columns import Columns
from vlrl.common.settings import Count, GroupSize, Positive, Section


class RewardConfig(Section):
    """Composes the reward that a task trains on from its score. By default it is the verifier's own reward.

    weights: a number for each of the score's parts, and for "reward", the verifier's own.
    required_part: the weighted sum counts as 0 if this part is below 1.
    length_penalty: subtracted in full from a response that reaches max_new_tokens, and linearly less from one that stays
    shorter, down to 0 at length_buffer tokens before (arXiv 2503.14476, eq. 13); raise it if responses grow without being
    better.
    length_buffer: tokens before max_new_tokens at which that penalty begins.
    language_penalty: subtracted from a response that is not in the question's language.
    """

    weights: dict[str, float] = {}
    required_part: str | None = None
    length_penalty: Annotated[float, Field(ge=0)] = 0.0
    length_buffer: Count = 256
    language_penalty: Annotated[float, Field(ge=0)] = 0.0


class TaskScoringConfig(Section):
    """Scoring settings of one task, if its verifier is slower than the others.

    timeout_s: seconds for one response, instead of scoring.timeout_s. workers: the most workers that may score it at a time, so
    that a slow verifier leaves some to the other tasks.
    """

    timeout_s: Positive | None = None
    workers: Count | None = None


class TaskConfig(Section):
    """One task of the mixture. A setting that is left out has the run's value.

    weight: its share of each batch, relative to the other tasks' weights; raise it for a task that matters or lags.
    task: the stem of its task file, if it differs from the name in the mixture, as when two data sets share a task.
    rows: the folder of a data set, or a source (see vlrl.data.source_files), which is built before the run. columns: which of a
    source's columns are question, answer and images. eval_rows: held-out rows, as rows; of a source also `split:NAME`, or how
    many of its rows to hold out.
    coldstart_weight: its share of the cold start's batches; a hard task may need more to earn its first rewards.
    eval_samples: responses to each of its held-out rows, instead of evaluation.samples.
    group_size: responses to each of its prompts, instead of sampling.group_size; more for a hard task, so that a group has right
    and wrong answers. max_new_tokens: its longest response in tokens, instead of sampling.max_new_tokens.
    tau_pos, tau_neg: its temperatures of SAPO's gate. loss_weight: multiplies its advantages.
    system: a system message before its prompts. instruction: replaces the task's INSTRUCTION in them.
    """

    weight: Positive
    task: str | None = None
    coldstart_weight: Positive | None = None
    rows: Path
    columns: Columns | None = None
    eval_rows: Path | Count | None = None
    eval_samples: Count | None = None
    group_size: GroupSize | None = None
    max_new_tokens: Count | None = None
    system: str | None = None
    instruction: str | None = None
    tau_pos: Positive | None = None
    tau_neg: Positive | None = None
    loss_weight: Positive = 1.0
    reward: RewardConfig = RewardConfig()
    scoring: TaskScoringConfig = TaskScoringConfig()
