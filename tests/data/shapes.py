"""Made-up data sets in the shapes that data sets have, each with the one line that makes rows of it. With its table:

python -m tests.data.shapes           # builds each, and samples of published data sets where they are present
"""

import base64
import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import SHARED
from tests.preflight.good_run import png
from vlrl.common.columns import parse_columns
from vlrl.data.build import build
from vlrl.data.column_rows import recipe_of
from vlrl.data.shards import Dataset
from vlrl.data.source_files import Source
from vlrl.scoring import Scorer

TASKS = Path(__file__).parents[2] / "tasks"
DATA = SHARED / "data"
NUMBERS = {"A": "one", "B": "two", "C": "three", "D": "four"}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A data set's shape. write: writes it into a folder, and returns its place; rows: how many are made of how many records.

    first: fields of the row that is made of the first record.
    """

    write: Callable[[Path], Path]
    columns: str
    task: str
    rows: tuple[int, int]
    held_out: str | int | None = None
    left_out: dict[str, int]
    first: dict[str, Any]


def as_jsonl(folder: Path, *records: dict[str, Any], name: str = "rows.jsonl") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / name


def as_parquet(
    folder: Path, columns: dict[str, list], features: dict[str, Any] | None = None, name: str = "rows.parquet"
) -> Path:
    import datasets

    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_dict(columns)
    for column, feature in (features or {}).items():
        made = made.cast_column(column, feature)
    made.to_parquet(folder / name)
    return folder / name


def picture(number: int) -> dict[str, Any]:
    return {"bytes": png(32 + number, 32), "path": f"{number}.png"}


def image_dicts(folder: Path) -> Path:
    import datasets

    columns = {"image": [*map(picture, range(3)), None, {"bytes": b"\x89PNG broken", "path": None}]}
    columns |= {"problem": [f"<image>How many dots has picture {n}?" for n in range(5)], "answer": ["1", "2", "3", "4", "5"]}
    return as_parquet(folder, columns, {"image": datasets.Image()})


def image_lists(folder: Path) -> Path:
    import datasets

    columns = {"images": [[picture(0), picture(1)], [picture(2)], []]}
    columns |= {"problem": ["<image><image>Which is wider?", "<image>How many?", "<image>How few?"], "answer": ["2", "1", "0"]}
    return as_parquet(folder, columns, {"images": datasets.List(datasets.Image())})


def nested(folder: Path) -> Path:
    metas = [{"answer": {"value": 3}}, {"answer": {"value": None}}, {"answer": {"value": 5}}]
    return as_parquet(folder, {"input": [{"text": f"How much is {n} + 3?"} for n in range(3)], "meta": metas})


def numbers(folder: Path) -> Path:
    return as_parquet(
        folder, {"question": [f"Which is number {n}?" for n in range(5)], "answer": [42.0, 0.5, None, float("nan"), -7.0]}
    )


def missing(folder: Path) -> Path:
    pairs = [
        ("What is 1 + 1?", 2),
        ("What is 2 + 2?", None),
        ("", 4),
        ("What is 3 + 3?", " "),
        (None, 5),
        ("What is 1 + 1?", "2"),
    ]
    return as_jsonl(folder, *({"q": q, "a": a} for q, a in pairs), {"q": "What is 4 + 4?"}, {"q": "What is 5 + 5?", "a": 10.0})


def spreadsheet(folder: Path) -> Path:
    (folder / "pictures").mkdir(parents=True)
    for number in range(3):
        (folder / f"pictures/{number}.png").write_bytes(png(40 + number, 32))
    lines = [["file", "ask", "right"], *([f"pictures/{n}.png", f"How many, {n}?", f"00{n}"] for n in range(4))]
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(lines)
    return folder / "rows.csv"


def base64_texts(folder: Path) -> Path:
    """The form of VLMEvalKit: tab-separated, a base64 picture, and one column for each option."""
    lines = [["index", "image", "question", *"ABCD", "answer"]]
    lines += [
        [str(n), base64.b64encode(png(32 + n, 48)).decode(), f"Which, {n}?", *NUMBERS.values(), "ABCD"[n]] for n in range(4)
    ]
    lines[2][6] = ""  # three options only
    with (folder / "rows.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(lines)
    return folder / "rows.tsv"


def option_lists(folder: Path) -> Path:
    """Answers are class labels, as in MMLU."""
    import datasets

    choices = [list(NUMBERS.values()), ["five", "six"], ["seven", "seven", "eight"], None]
    columns = {"question": [f"Which, {n}?" for n in range(4)], "choices": choices, "answer": [1, 0, 2, 0]}
    return as_parquet(folder, columns, {"answer": datasets.ClassLabel(names=list("ABCD"))})


def numbered_options(folder: Path) -> Path:
    options = ["A) ten", "B) eleven", "C) twelve"]
    return as_jsonl(folder, *({"question": f"Which, {n}?", "options": str(options), "answer": n % 3} for n in range(4)))


def chats(folder: Path) -> Path:
    def chat(number: int, response: str) -> list[dict[str, str]]:
        asked = {"role": "user", "content": f"What is {number} + 1?"}
        return [{"role": "system", "content": "You add."}, asked, {"role": "assistant", "content": response}]

    said = [chat(1, "One more is \\boxed{2}."), chat(2, "It is three."), chat(3, "That is \\boxed{4}."), chat(4, "\\boxed{5}")]
    said[3] += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "\\boxed{6}"}]
    return as_jsonl(folder, *({"messages": each} for each in said))


def sharegpt(folder: Path) -> Path:
    (folder / "0.png").write_bytes(png(32, 32))
    asked = {"from": "human", "value": "<image>\nHow many dots?"}
    said = [asked, {"from": "gpt", "value": "<think>I see one.</think> \\boxed{1}"}]
    return as_jsonl(folder, {"conversations": said, "images": ["0.png"]}, {"conversations": said, "images": []})


def splits(folder: Path) -> Path:
    """A folder with two splits, which share a question."""
    for split, first, count in (("train", 0, 6), ("test", 5, 3)):
        as_jsonl(
            folder, *({"question": f"{n} + 1?", "answer": n + 1} for n in range(first, first + count)), name=f"data/{split}.jsonl"
        )
    return folder


SHAPES = {
    "parquet, image objects": Shape(
        write=image_dicts,
        columns="question=problem,answer=answer,images=image",
        task="counting",
        rows=(5, 3),
        left_out={"no picture is named": 1, "a picture that cannot be used": 1},
        first={"question": "How many dots has picture 0?", "answer": "1", "images": 1},
    ),
    "parquet, lists of image objects": Shape(
        write=image_lists,
        columns="question=problem,answer=answer,images=images",
        task="counting",
        rows=(3, 2),
        left_out={"a question with <image>, but no picture": 1},
        first={"question": "Which is wider?", "images": 2},
    ),
    "parquet, nested columns": Shape(
        write=nested,
        columns="question=input.text,answer=meta.answer.value",
        task="math_number",
        rows=(3, 2),
        left_out={"no answer": 1},
        first={"question": "How much is 0 + 3?", "answer": "3"},
    ),
    "parquet, numbers as answers": Shape(
        write=numbers,
        columns="question=question,answer=answer",
        task="math_number",
        rows=(5, 3),
        left_out={"no answer": 2},
        first={"answer": "42"},
    ),
    "jsonl, missing values": Shape(
        write=missing,
        columns="question=q,answer=a",
        task="math_number",
        rows=(8, 2),
        left_out={"no answer": 3, "no question": 2, "asked before": 1},
        first={"question": "What is 1 + 1?", "answer": "2"},
    ),
    "csv, paths of pictures": Shape(
        write=spreadsheet,
        columns="question=ask,answer=right,images=file",
        task="counting",
        rows=(4, 3),
        left_out={"a picture file that is missing": 1},
        first={"question": "How many, 0?", "answer": "000", "images": 1},
    ),
    "tsv, base64 pictures, a column per option": Shape(
        write=base64_texts,
        columns="question=question,answer=answer,images=image,options=A,options=B,options=C,options=D",
        task="multiple_choice",
        rows=(4, 4),
        left_out={},
        first={"answer": "A", "images": 1, "meta": {"options": list(NUMBERS.values())}},
    ),
    "parquet, a list of options, class labels": Shape(
        write=option_lists,
        columns="question=question,answer=answer,options=choices",
        task="multiple_choice",
        rows=(4, 2),
        left_out={"a repeated option": 1, "no options": 1},
        first={"answer": "B", "meta": {"options": list(NUMBERS.values())}},
    ),
    "jsonl, options as text, answers numbered": Shape(
        write=numbered_options,
        columns="question=question,answer=answer,options=options",
        task="multiple_choice",
        rows=(4, 4),
        left_out={},
        first={"answer": "A", "meta": {"options": ["ten", "eleven", "twelve"]}},
    ),
    "jsonl, chats with roles": Shape(
        write=chats,
        columns="",
        task="math_number",
        rows=(4, 2),
        left_out={"no answer in \\boxed{} in the response": 1, "a chat of more than one question and response": 1},
        first={
            "question": "What is 1 + 1?",
            "answer": "2",
            "response": "One more is \\boxed{2}.",
            "meta": {"system": "You add."},
        },
    ),
    "jsonl, ShareGPT's conversations, pictures": Shape(
        write=sharegpt,
        columns="messages=conversations,images=images",
        task="counting",
        rows=(2, 1),
        left_out={"a question with <image>, but no picture": 1},
        first={"question": "How many dots?", "answer": "1", "images": 1},
    ),
    "folder of two splits": Shape(
        write=splits,
        columns="question=question,answer=answer",
        task="math_number",
        rows=(9, 8),
        held_out="split:test",
        left_out={"asked before": 1},
        first={},
    ),
}


def sample(path: str, columns: str, task: str, rows: tuple[int, int], held_out: str | int | None, **left_out: int) -> Shape:
    """A sample of a published data set."""
    reasons = {reason.replace("_", " ").replace("before ", "before, "): number for reason, number in left_out.items()}
    return Shape(
        write=lambda _: DATA / path, columns=columns, task=task, rows=rows, held_out=held_out, left_out=reasons, first={}
    )


OF_PUZZLES = "question=question,answer=answer,images=image,options=options"
GSM8K_TEST = str(DATA / "math/gsm8k_test_200.jsonl")
SAMPLES = {
    "SVAMP": sample("math/svamp_300.jsonl", "question=Body,question=Question,answer=Answer", "math_number", (300, 300), 50),
    "GSM8K": sample("math/gsm8k_train_400.jsonl", "question=question,answer=final", "math_number", (600, 600), GSM8K_TEST),
    "MATH-500": sample("math/math500.jsonl", "question=problem,answer=answer", "math_expression", (500, 500), 100),
    "CRUXEval": sample("code/cruxeval_400.jsonl", "question=code,answer=output", "output_prediction", (400, 400), None),
    "PuzzleVQA": sample("vision/puzzlevqa", OF_PUZZLES, "multiple_choice", (60, 59), 20, asked_before_with_another_answer=1),
    "NLVR": sample("vision/nlvr", "question=statement,answer=label,images=image", "true_false", (180, 180), 30),
}
SHAPES |= {f"{name} (sample)": each for name, each in SAMPLES.items() if each.write(Path()).exists()}


def made(source: Path, columns: str, task: str, held_out: Any, out: Path, scorer: Scorer) -> tuple[dict[str, Dataset], list]:
    """The data sets of a source, as `vlrl data build SOURCE --columns ...` makes them, and what was left out."""
    place = Source.parse(str(source))
    eval_rows = held_out if held_out is None or isinstance(held_out, int) else Source.parse_held_out(str(held_out), place)
    recipe = recipe_of(place, parse_columns([columns]), task, licence="none", held_out=eval_rows)
    return build(recipe, out, scorer, min_kept=0.1)


def main() -> None:
    print("| data set | `--columns` | `--task` | `--eval` | records | train | eval | left out |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, shape in SHAPES.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            redirect_stdout(sys.stderr),
            Scorer([TASKS], 2, 30.0, memory_mb=2048) as scorer,
        ):
            place = shape.write(Path(folder))
            built, left_out = made(place, shape.columns, shape.task, shape.held_out, Path(folder) / "out", scorer)
            sizes = {split: len(rows) for split, rows in built.items()}
        reasons = (
            ", ".join(f"{num} {reason}" for reason, num in Counter(left.reason for left in left_out).most_common()) or "none"
        )
        reasons = reasons.replace("<image>", "`<image>`")  # else a reader of the table sees no text there
        shown = Path(str(shape.held_out or "")).name
        counts = f"{sum(sizes.values()) + len(left_out)} | {sizes['train']} | {sizes.get('eval', '')}"
        print(f"| {name} | {shape.columns or 'none'} | {shape.task} | {shown} | {counts} | {reasons} |", flush=True)


if __name__ == "__main__":
    main()
