"""Filtering by pass rate, with the real engine on a tiny model and a verifier that accepts some of its responses."""

import json

import pytest

from tests.loop import TORCHRUN, finished, python
from tests.preflight.good_run import png
from vlrl.data.images import read_image_bytes
from vlrl.data.shards import Dataset, NewRow, write_dataset
from vlrl.evaluation.pass_rate import verdict
from vlrl.types import RowRewards

SPLIT = '''"""split: even lengths are right. The row's answer may break the verifier, or decide alone."""

from vlrl.types import Row, Score


def prompt(row):
    images = [{"type": "image", "image": image} for image in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": row.question}]}]


def verify(response, row):
    if row.answer == "broken" and response != row.response:
        raise RuntimeError("this row breaks the verifier")
    right = {"always": True, "never": False}.get(row.answer, len(response) % 2 == 0)
    return Score(reward=float(right or response == row.response))


EXAMPLES = [("ab", Row(), 1.0), ("abc", Row(), 0.0)]
'''
ANSWERS = ["always", "never", "broken", *["sometimes"] * 9]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory, tiny_dense):
    """A function that filters the rows in the folder, and returns what was printed."""
    root = tmp_path_factory.mktemp("filter")
    (root / "split.py").write_text(SPLIT)
    rows = [
        NewRow(question=f"Row {n}?", answer=answer, response="own", images=(png(32 + n, 32),)) for n, answer in enumerate(ANSWERS)
    ]
    write_dataset(root / "rows", rows, source="made here", licence="none", recipe="split", recipe_version=3)

    def run(out="out", *, rows="rows", exit_code=0, launcher=()):
        mixture = {"split": {"weight": 1, "rows": f"{root}/{rows}"}}
        settings = {"name": "never-started", "runs": f"{root}/runs", "model": tiny_dense, "task_folders": [str(root)]}
        settings |= {"mixture": mixture, "sampling.max_new_tokens": 6}
        overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        command = ("vlrl.cli", "data", "filter", "configs/cpu.yaml", *overrides, "--out", root / out, "--samples", "6")
        return finished(python("-m", *launcher, *command), exit_code)

    run.root = root
    run.printed = run()
    return run


def lines(filtered, out="out") -> list[dict]:
    return [json.loads(line) for line in (filtered.root / out / "split/pass_rates.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_rows_that_are_solved_sometimes_are_kept_whole(filtered):
    before, kept = Dataset(filtered.root / "rows"), Dataset(filtered.root / "out/split")
    rates = [RowRewards(**line) for line in lines(filtered)[1:]]
    numbers = [number for number, row in enumerate(rates) if verdict(row, 0.9) == "kept"]
    assert set(numbers) <= set(range(3, 12)) and len(kept) == len(numbers) > 3
    for number, place in enumerate(numbers):
        assert kept[number].question == before[place].question
        assert [read_image_bytes(ref) for ref in kept[number].images] == [read_image_bytes(ref) for ref in before[place].images]
    assert (kept.manifest.source, kept.manifest.recipe_version) == ("made here", 3)


@pytest.mark.slow
def test_dropped_rows_are_counted_by_reason(filtered):
    never, always, broken = (lines(filtered)[1 + ANSWERS.index(answer)] for answer in ("never", "always", "broken"))
    assert (never["rewards"], always["rewards"], broken["rewards"], broken["failed"]) == ([0.0] * 6, [1.0] * 6, [], 6)
    verdicts = [verdict(RowRewards(**line), 0.9) for line in (never, always, broken)]
    assert verdicts == ["never solved", "solved too often", "not scored"]
    (line,) = (line for line in filtered.printed.splitlines() if "│ split" in line)
    assert [cell.strip() for cell in line.split("│")[2:7]] == [
        "12",
        *(str(sum(verdict(RowRewards(**line), 0.9) == name for line in lines(filtered)[1:])) for name in ("kept", *verdicts)),
    ]


@pytest.mark.slow
def test_a_filtering_that_was_stopped_resumes_with_the_rates_that_it_has(filtered):
    whole = lines(filtered)
    path = filtered.root / "again/split/pass_rates.jsonl"
    path.parent.mkdir(parents=True)
    marked = [whole[0], whole[1] | {"rewards": [0.123]}, *whole[2:4]]
    path.write_text("".join(json.dumps(line) + "\n" for line in marked) + '{"row": "0000')
    filtered("again")
    assert lines(filtered, "again") == [whole[0], whole[1] | {"rewards": [0.123]}, *whole[2:]]


@pytest.mark.slow
def test_two_ranks_find_the_rates_of_one(filtered):
    filtered("two", launcher=TORCHRUN)
    assert lines(filtered, "two") == lines(filtered)


@pytest.mark.slow
def test_a_task_that_would_keep_no_row_is_refused(filtered):
    rows = [NewRow(question=f"Row {n}?", answer="never", response="own") for n in range(3)]
    write_dataset(filtered.root / "hard", rows, source="", licence="", recipe="split", recipe_version=1)
    printed = filtered("none", rows="hard", exit_code=2)
    assert "vlrl: split: no row has a pass rate above 0 and at most 90%" in printed
    assert not (filtered.root / "none/split/manifest.json").exists()
