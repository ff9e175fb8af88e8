"""Measures whether a verifier's verdicts depend on what they should not: which of two texts is the reference, and empty words.

This is for judges. A rule may rightly refuse an answer with more words; a judge of meaning should not.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vlrl.authoring.task_tools import Case, score_all
from vlrl.scoring import Scorer
from vlrl.types import Row, Score, Status
from vlrl.verifiers.answers import last_boxed

_NOTHING = ", and this is what I would like to give as my answer to the question that was asked, having thought it over with care"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bias:
    """What a change of the cases did to their verdicts. pairs: each case's score before and after."""

    change: str
    pairs: Sequence[tuple[Score, Score]]

    @property
    def counts(self) -> dict[str, int]:
        """The number of cases with the same reward, a higher one, a lower one, and without a verdict before or after."""
        decided = [(one.reward, other.reward) for one, other in self.pairs if one.status == other.status == Status.OK]
        same = sum(abs(one - other) < 1e-6 for one, other in decided)
        higher = sum(other - one >= 1e-6 for one, other in decided)
        return {
            "cases": len(self.pairs),
            "same": same,
            "higher": higher,
            "lower": len(decided) - same - higher,
            "no verdict": len(self.pairs) - len(decided),
        }


def biases(task: str, cases: Sequence[Case], before: Sequence[Score], scorer: Scorer) -> list[Bias]:
    """Scores the cases again, with answer and reference swapped, and with an answer that is padded with words that say nothing.

    before: the scores of the cases as they are. Cases without an answer or a reference are left out.
    """
    found = []
    for change, changed in (("answer and reference swapped", _swapped), ("answer padded", _padded)):
        again = dict(_changed(cases, changed))
        after = score_all(task, list(again.values()), scorer)
        found.append(Bias(change=change, pairs=[(before[place], score) for place, score in zip(again, after, strict=True)]))
    return found


def _changed(cases: Sequence[Case], change: Callable[[str, Row], tuple[str, Row]]) -> Iterator[tuple[int, tuple[str, Row]]]:
    """The place of each case that has an answer and a reference, with its changed response and row."""
    for place, case in enumerate(cases):
        box = last_boxed(case.response)
        answer = case.response if box is None else box
        if answer.strip() and case.row.answer.strip():
            response, row = change(answer, case.row)
            yield place, (response if box is None else f"\\boxed{{{response}}}", row)


def _swapped(answer: str, row: Row) -> tuple[str, Row]:
    return row.answer, replace(row, answer=answer)


def _padded(answer: str, row: Row) -> tuple[str, Row]:
    return answer + _NOTHING, row
