"""Builds data sets from recipes. A row is left out, with a reason, if the task's verifier does not accept the row's own answer.

The scoring pool of training scores these answers, so the build finds answers that no response could match, before training does.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vlrl.authoring.task_tools import score_all, verdict_of
from vlrl.data.images import read_image_bytes
from vlrl.data.recipe import LeftOut, Recipe, rows_of, split, without_repeated
from vlrl.data.shards import MANIFEST, Dataset, NewRow, file_sha256, write_datasets
from vlrl.scoring import Scorer
from vlrl.tasks import describe_error, gold, load_task
from vlrl.telemetry.progress import progress
from vlrl.types import Row, Score, Status

log = logging.getLogger(__name__)
_ACCEPTED_REWARD = 0.9  # rounding a box's coordinates costs less than the rest
_ACCEPTED = "accepted.part"
_CHUNK = 500
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a task rejects a row's own answer. reason: what the build counts by; detail: the answer and its score.

    is_error: the verifier gave no score, because it raised an exception.
    """

    reason: str
    detail: str
    is_error: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


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
    min_kept: float = 0.5,
) -> tuple[dict[str, Dataset], list[LeftOut]]:
    """Writes OUT/train, OUT/eval and OUT/left_out.jsonl. Returns the data sets by name, and the records that were left out.

    against: evaluation sets. A row is left out of train if they contain at least the share `overlap` of its question's word
    n-grams and, if it has images, at least one of its images. min_kept: the least share of records that must pass the build's
    checks, not counting those that to_row drops. If the build fails, OUT keeps its old sets, and left_out.jsonl is about the
    failed build. A build that continues a stopped one does not check accepted rows again. Raises ValueError if the source cannot
    be read, or if fewer rows remain than requested or than min_kept allows.
    """
    _check_replaces_all(recipe, out)
    left_out: list[LeftOut] = []
    rows: list[tuple[int, NewRow]] = []
    with progress(f"Reading {recipe.name}", None) as tick:
        for row in rows_of(recipe, source, seed, left_out):
            rows.append(row)
            tick()
    out.mkdir(parents=True, exist_ok=True)
    accepted = out / _ACCEPTED
    passed = _without_guessed(recipe, _with_gold_accepted(recipe, rows, scorer, accepted, left_out), scorer, left_out)
    kept = without_repeated(passed, left_out)
    try:
        _check_share(len(passed), left_out, min_kept)
        splits = split(kept, recipe.sizes, seed, recipe.is_held_out)
    except ValueError as error:
        _write_left_out(out, left_out)
        counts = "; ".join(reasons(left_out)) or "nothing"
        raise ValueError(f"{recipe.name}: {error}; left out: {counts}; {out}/left_out.jsonl lists them") from None
    used = {number for chosen in splits.values() for number, _ in chosen}
    left_out += [_left(row, "more than the sets' sizes ask for") for row in kept if row[0] not in used]
    held_out = _HeldOut(against, ngram, overlap)
    near = {number for number, row in splits["train"] if held_out.is_near(row)}
    left_out += [_left(row, "like a question of another evaluation set") for row in splits["train"] if row[0] in near]
    splits["train"] = [row for row in splits["train"] if row[0] not in near]
    written = write_datasets(
        {out / name: [row for _, row in chosen] for name, chosen in splits.items() if recipe.sizes[name] != 0},
        source=source or recipe.source,
        licence=recipe.licence,
        recipe=recipe.name,
        recipe_version=recipe.version,
        task=recipe.task,
        recipe_sha256=file_sha256(recipe.path) if recipe.path.suffix == ".py" else "",
    )
    _write_left_out(out, left_out)
    accepted.unlink(missing_ok=True)
    return {folder.name: dataset for folder, dataset in written.items()}, left_out


def _check_replaces_all(recipe: Recipe, out: Path) -> None:
    """Raises ValueError if OUT has a set that the build would not replace, because the new set could share rows with it."""
    for name, size in recipe.sizes.items():
        if size == 0 and (out / name / MANIFEST).exists():
            raise ValueError(
                f"{out / name} is from an earlier build, and this build writes no {name} (--{name} 0), so both could share rows; "
                f"delete {out / name}, or build into another folder"
            )


def _with_gold_accepted(
    recipe: Recipe, rows: list[tuple[int, NewRow]], scorer: Scorer, accepted: Path, left_out: list[LeftOut]
) -> list[tuple[int, NewRow]]:
    """The rows whose own answer the task accepts; adds the others to `left_out`. Keeps all rows of a recipe without answers."""
    if not recipe.has_gold:
        return rows
    faults = _faults(recipe, [row for _, row in rows], scorer, accepted)
    if errors := [(number, fault) for (number, _), fault in zip(rows, faults, strict=True) if fault and fault.is_error]:
        log.warning(
            "the verifier of %s failed on %d of %d records, which are left out; the first, record %d: %s; fix verify, or let it "
            "raise BadRow for rows that it cannot score", recipe.task, len(errors), len(rows), errors[0][0], errors[0][1].detail,
        )  # fmt: skip
    left_out += [_left(row, f.reason, f.detail, is_fault=True) for row, f in zip(rows, faults, strict=True) if f]
    return [row for row, fault in zip(rows, faults, strict=True) if not fault]


def _without_guessed(
    recipe: Recipe, rows: list[tuple[int, NewRow]], scorer: Scorer, left_out: list[LeftOut]
) -> list[tuple[int, NewRow]]:
    """The rows that no guess of the task solves; adds the others to `left_out`. Raises ValueError if `guessed` fails."""
    task = load_task(recipe.task, scorer.folders)
    if task.guessed is None:
        return rows
    try:
        guesses = task.guessed([_as_row(row) for _, row in rows])
        pairs = list(zip(rows, guesses, strict=True))
    except Exception as error:  # the task's code may raise anything
        raise ValueError(f"{task.path}: guessed fails ({describe_error(error)})") from error
    left_out += [_left(row, "right without a look at the picture", guess, is_fault=True) for row, guess in pairs if guess]
    return [row for row, guess in pairs if not guess]


def _check_share(num_passed: int, left_out: Sequence[LeftOut], min_kept: float) -> None:
    """Raises ValueError if no row passed the build's checks, or a smaller share than min_kept."""
    num_checked = num_passed + sum(left.is_fault for left in left_out)
    if not num_passed:
        raise ValueError("no row is left")
    if num_passed < min_kept * num_checked:
        raise ValueError(
            f"only {num_passed} of {num_checked} records passed the checks, a share below {min_kept:g}; fix the recipe or its "
            "source, or allow less with --min-kept of vlrl data build"
        )


def _write_left_out(out: Path, left_out: Sequence[LeftOut]) -> None:
    (out / "left_out.jsonl").write_text("".join(json.dumps(asdict(left)) + "\n" for left in left_out))


def gold_faults(task: str, rows: Sequence[Row], scorer: Scorer, tick: Callable[[], None] = lambda: None) -> list[Refused | None]:
    """For each row, why its task rejects the row's own answer; None if it accepts it. tick: called after each row."""
    scores = score_all(task, [(gold(row), row) for row in rows], scorer, tick)
    return [_refused(task, row, score) for row, score in zip(rows, scores, strict=True)]


def _refused(task: str, row: Row, score: Score) -> Refused | None:
    if score.status is Status.OK and score.reward >= _ACCEPTED_REWARD:
        return None
    result = f"reward {score.reward:g}" if score.status is Status.OK else str(score.status)
    result = f"{result}: {score.detail}" if score.detail else result
    reason = f"its own answer is not accepted by {task} ({verdict_of(score)})"
    return Refused(reason, f"{gold(row)!r:.80} gets {' '.join(result.split())}", score.status is Status.ERROR)


def ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """The runs of `size` words; case and punctuation are ignored. A text with fewer words is one run.

    >>> sorted(ngrams("A b, c? D", 3)), ngrams("Yes?", 3), ngrams("", 3)
    ([('a', 'b', 'c'), ('b', 'c', 'd')], {('yes',)}, set())
    """
    words = _WORD.findall(text.casefold())
    return {tuple(words[start : start + size]) for start in range(max(len(words) - size + 1, min(len(words), 1)))}


def report(built: Mapping[str, Dataset], left_out: Sequence[LeftOut], out: Path) -> Iterator[str]:
    """Lines about a build: the rows of each set, and what was left out for which reason."""
    for dataset in built.values():
        yield f"{dataset.folder}: {len(dataset)} rows, {dataset.manifest.num_images} images"
    yield f"left out: {len(left_out)} records" + (f", listed in {out}/left_out.jsonl" if left_out else "")
    yield from (f"  {reason}" for reason in reasons(left_out))


def reasons(left_out: Sequence[LeftOut]) -> list[str]:
    """One text per reason, the most frequent first: '3 a picture file that is missing (the first: record 7, pictures/7.png)'."""
    first = {left.reason: left for left in reversed(left_out)}
    details = {reason: f", {left.detail}" if left.detail else "" for reason, left in first.items()}
    counts = Counter(left.reason for left in left_out).most_common()
    texts = [f"{count} {reason} (the first: record {first[reason].record}{details[reason]})" for reason, count in counts]
    return [text.encode(errors="backslashreplace").decode() for text in texts]  # a file's name may not be Unicode


class _HeldOut:
    """The questions and images of evaluation sets, which must not be trained on."""

    def __init__(self, datasets: Sequence[Dataset], ngram: int, overlap: float):
        rows = [dataset[number] for dataset in datasets for number in range(len(dataset))]
        self._ngram, self._overlap = ngram, overlap
        self._grams = {gram for row in rows for gram in ngrams(row.question, ngram)}
        self._images = {_digest(read_image_bytes(ref)) for row in rows for ref in row.images}

    def is_near(self, row: NewRow) -> bool:
        grams = ngrams(row.question, self._ngram)
        is_like = bool(grams) and len(grams & self._grams) >= self._overlap * len(grams)
        return is_like and (not row.images or any(_digest(image) in self._images for image in row.images))


def _left(row: tuple[int, NewRow], reason: str, detail: str = "", *, is_fault: bool = False) -> LeftOut:
    return LeftOut(record=row[0], reason=reason, question=row[1].question, detail=detail, is_fault=is_fault)


def _faults(recipe: Recipe, rows: Sequence[NewRow], scorer: Scorer, accepted: Path) -> list[Refused | None]:
    """Like `gold_faults`, but scores equal rows once.

    The file `accepted` lists the rows that a stopped build has accepted. They are not scored again; newly accepted rows are
    added.
    """
    source = load_task(recipe.task, scorer.folders).path.read_bytes()
    names = [_digest(source + repr((row.question, row.answer, row.meta, row.response)).encode()) for row in rows]
    before = set(accepted.read_text().splitlines()) if accepted.exists() else set()
    todo = {name: row for name, row in zip(names, rows, strict=True) if name not in before}
    faults: dict[str, Refused | None] = {}
    with (
        accepted.open("a") as file,
        progress(f"Checking answers of {recipe.name}", len(rows), done=len(rows) - len(todo)) as tick,
    ):
        for start in range(0, len(todo), _CHUNK):
            chunk = list(todo)[start : start + _CHUNK]
            found = gold_faults(recipe.task, [_as_row(todo[name]) for name in chunk], scorer, tick)
            faults.update(zip(chunk, found, strict=True))
            file.writelines(f"{name}\n" for name in chunk if not faults[name])
            file.flush()
    return [faults.get(name) for name in names]


def _as_row(row: NewRow) -> Row:
    return Row(question=row.question, answer=row.answer, meta=row.meta, response=row.response)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
