"""Data sets from recipes: every row's own answer is put to its task's verifier before it is kept, and what is left out is told.

Scored by the pool that training uses, so that a gold that no response could match is found here and not by a policy.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vlrl.author import score_all, verdict_of
from vlrl.data.recipe import Recipe, rows_of, split
from vlrl.data.shards import Dataset, NewRow, write_dataset
from vlrl.metrics import progress
from vlrl.scoring import Scorer
from vlrl.tasks import gold
from vlrl.types import Row, Status

_ENOUGH = 0.9  # of a reward: a box rounded to a grid still overlaps itself by more
_WORD = re.compile(r"\w+")


def build(
    recipe: Recipe,
    out: Path,
    scorer: Scorer,
    *,
    source: str | None = None,
    seed: int = 0,
    against: Sequence[Dataset] = (),
    ngram: int = 8,
    overlap: float = 0.5,
) -> tuple[dict[str, Dataset], Counter[str]]:
    """Writes OUT/train and OUT/eval. Returns them by name, and how many records were left out, by reason.

    against: evaluation sets; a row is left out of train if at least `overlap` of its question's n-grams of words are theirs.
    ValueError where the source cannot be read, or fewer rows are left than asked for.
    """
    dropped: Counter[str] = Counter()
    rows = list(rows_of(recipe, source, seed, dropped))
    with progress(f"Checking answers of {recipe.name}", len(rows)) as tick:
        faults = gold_faults(recipe.task, [_as_row(row) for row in rows], scorer, tick)
    kept = []
    for row, fault in zip(rows, faults, strict=True):
        if fault:
            dropped[fault] += 1
        else:
            kept.append(row)
    try:
        splits = split(kept, recipe.sizes, seed)
    except ValueError as error:
        raise ValueError(f"{recipe.name}: {error}; left out: {told(dropped)}") from None
    known = {gram for dataset in against for row in _all(dataset) for gram in ngrams(row.question, ngram)}
    fresh = [row for row in splits["train"] if not _is_near(row.question, known, ngram, overlap)]
    dropped["like a question of another evaluation set"] += len(splits["train"]) - len(fresh)
    datasets = {
        name: write_dataset(
            out / name,
            chosen,
            source=source or recipe.source,
            licence=recipe.licence,
            recipe=recipe.name,
            recipe_version=recipe.version,
        )
        for name, chosen in (splits | {"train": fresh}).items()
        if recipe.sizes[name] != 0
    }
    return datasets, +dropped


def gold_faults(task: str, rows: Sequence[Row], scorer: Scorer, tick: Callable[[], None] = lambda: None) -> list[str]:
    """Of each row, why its own answer is not accepted by its task; empty where it is. tick: called after each."""
    scores = score_all(task, [(gold(row), row) for row in rows], scorer, tick)
    accepted = [score.status is Status.OK and score.reward >= _ENOUGH for score in scores]
    return [
        "" if ok else f"its own answer is not accepted by {task} ({verdict_of(score)})"
        for ok, score in zip(accepted, scores, strict=True)
    ]


def ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """Runs of `size` words, case and punctuation apart; of a text with fewer words none.

    >>> sorted(ngrams("A b, c? D", 3))
    [('a', 'b', 'c'), ('b', 'c', 'd')]
    """
    words = _WORD.findall(text.casefold())
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def told(dropped: Counter[str]) -> str:
    """'3 a difference, 1 asked before', or 'none'."""
    return ", ".join(f"{count} {reason}" for reason, count in dropped.most_common() if count) or "none"


def _is_near(question: str, known: set[tuple[str, ...]], size: int, overlap: float) -> bool:
    grams = ngrams(question, size)
    return bool(grams) and len(grams & known) >= overlap * len(grams)


def _as_row(row: NewRow) -> Row:
    return Row(question=row.question, answer=row.answer, meta=row.meta, response=row.response)


def _all(dataset: Dataset) -> Iterable[Row]:
    return (dataset[number] for number in range(len(dataset)))
