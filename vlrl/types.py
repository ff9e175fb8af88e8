"""The nouns of vlrl, in the order in which a step meets them.

A Row of a data set becomes a Prompt (its chat messages); the engine samples Rollouts for it; each gets a Score from its
task's verifier; A Prompt with its Samples (rollout, score, reward, advantage) is a Group, the unit of everything after sampling.

Nothing here needs torch: verifiers and their worker processes import this file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean
from typing import Any

Message = dict[str, Any]
"""One chat turn: {"role": "user", "content": [{"type": "image", "image": REF}, {"type": "text", "text": "..."}]}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One item of a data set.

    images: references, never pixels: a file's path, or `SHARD.tar#OFFSET+SIZE` (bytes inside a shard).
    response: a demonstration for the supervised cold start (reasoning and answer); empty where there is none.
    """

    key: str = ""
    question: str = ""
    answer: str = ""
    images: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    response: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One place in a step's batch: which row of which task, and the mini-batch that its group will train in.

    round: 0, or how many rows of equal rewards stood at this place before.
    """

    slot: int
    task: str
    index: int
    minibatch: int
    round: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A row as chat messages, at its place (`slot`) in the step's batch.

    task: its name in the mixture; file: that of the task file which verifies it.
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

    tokens: [L] sampled ids, the end token included; they are what the trainer scores, never decoded and encoded again.
    logprobs: [L] the engine's log-probs of those tokens, after temperature and bans.
    routes: [P + L - 1, layers, experts a token], where the engine tells to which experts each token went, the prompt's P first;
    the last token went through no layer.
    """

    slot: int
    sample: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    weight_version: int
    routes: Any = field(default=None, repr=False, compare=False)


class Status(StrEnum):
    """What became of scoring a rollout. Only OK enters a group's baseline; every other one is masked out and counted."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    BAD_ROW = "bad_row"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A verifier's verdict. reward: meaningless unless status is OK; parts: named pieces of it, for the log."""

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
    """Of a row by its key: the rewards of its samples that got a verdict, and how many got none."""

    row: str
    rewards: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """0 without any verdict."""
        return fmean(self.rewards) if self.rewards else 0.0
