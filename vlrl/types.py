"""Defines the data types of a training step, in the order in which the step uses them.

A Row of a data set becomes a Prompt (its chat messages). The engine samples Rollouts for it, and the task's verifier gives each a
Score. A Prompt with its Samples (rollout, score, reward, advantage) is a Group; every stage after sampling handles groups.

Nothing here needs torch, because verifiers and their worker processes import this file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean
from typing import Any, Literal

Message = dict[str, Any]
"""One chat turn: {"role": "user", "content": [{"type": "image", "image": REF}, {"type": "text", "text": "..."}]}."""


Convention = Literal["relative_1000", "pixels"]
"""How a model gives places in a picture: in thousandths of width and height (Qwen3-VL), or in pixels of the resized picture that
it saw (Qwen2.5-VL)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One item of a data set.

    images: references, not pixels: a file's path, or `SHARD.tar#OFFSET+SIZE` (bytes inside a shard).
    response: a demonstration for the supervised cold start (reasoning and answer); empty if the row has none.
    seen: width and height of each image as the model saw it, if the model gives places in pixels of it. A data set's rows have
    none; the run adds them once the prompt is encoded, for the verifier.
    """

    key: str = ""
    question: str = ""
    answer: str = ""
    images: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    response: str = ""
    seen: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """The row at one slot of a step's batch: its task and index, and the mini-batch in which its group trains.

    round: 0, or how many times dynamic sampling has replaced the slot's row because its rewards were equal.
    """

    slot: int
    task: str
    index: int
    minibatch: int
    round: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A row as chat messages, at its slot in the step's batch.

    task: the task's name in the mixture; file: the name of the task file that verifies the row.
    encoded: its tokens and images as the model reads them, a models.processor.EncodedPrompt; None before it is encoded, and
    for a row that cannot become a prompt.
    """

    slot: int
    task: str
    row: Row
    messages: tuple[Message, ...]
    file: str = ""
    minibatch: int = 0
    round: int = 0
    group_size: int = 1
    max_new_tokens: int = 1
    encoded: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One sampled response.

    tokens: [L] sampled token ids, including the end token. The trainer uses these ids; the text is never encoded again.
    logprobs: [L] the engine's log-probs of these tokens, after temperature and banned tokens.
    weight_versions: [L] the version of the weights that sampled each token; more than one in a partial rollout alone.
    text: the response without its end token; the engine leaves it empty. If the prompt opened the reasoning, the text begins with
    what the prompt wrote of it, such as "<think>" and a line feed, so that it says by itself where the reasoning ends.
    routes: [P + L - 1, layers, experts per token], if the engine returns the experts of each token; the P prompt tokens come
    first, and the last token is missing because no layer processed it.
    """

    slot: int
    sample: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    weight_versions: tuple[int, ...]
    finish_reason: str
    text: str = ""
    routes: Any = field(default=None, repr=False, compare=False)


class Status(StrEnum):
    """The outcome of scoring a rollout. Only OK rollouts enter a group's baseline; others are masked out and counted."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    BAD_ROW = "bad_row"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A verifier's result. reward: valid only if status is OK; parts: named components of the reward, for the log."""

    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    status: Status = Status.OK
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A rollout with its score.

    reward: what the run file composes from the score, which keeps the verifier's own. advantage: of the reward over the group's.
    Both mean nothing unless the score's status is OK.
    """

    rollout: Rollout
    score: Score
    reward: float = 0.0
    advantage: float = 0.0

    @property
    def is_scored(self) -> bool:
        return self.score.status is Status.OK


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A prompt with its G samples, in order; a row that cannot become a prompt has none."""

    prompt: Prompt
    samples: tuple[Sample, ...]

    @property
    def has_gradient(self) -> bool:
        """Whether any advantage is not zero."""
        return any(sample.advantage for sample in self.samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRewards:
    """A row's key, the rewards of its scored samples, and the number of samples without a score."""

    row: str
    rewards: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """The mean reward; 0 if no sample has a score."""
        return fmean(self.rewards) if self.rewards else 0.0
