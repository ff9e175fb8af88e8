"""Runs with rows from a stand-in of the hub. In a process of its own, as huggingface_hub reads its address when it is imported.

python -m tests.data.hub_run FOLDER, an empty folder. Each property is one assertion.
"""

import os
import sys
from pathlib import Path

from tests.data.shapes import TASKS, as_jsonl, image_lists
from tests.data.stand_in_hub import serving
from tests.preflight.good_run import png

CARD = """---
license: [mit, apache-2.0]
configs:
- config_name: pictures
  data_files: [{split: train, path: other/*.parquet}]
- config_name: sums
  data_files: [{split: train, path: sums/first.jsonl}, {split: held_out, path: sums/second.jsonl}]
---
"""


def sums(folder: Path, plus: int) -> Path:
    for name, first in (("first", 0), ("second", 5)):
        records = ({"q": f"How much is {n} + {plus}?", "a": float(n + plus)} for n in range(first, first + 6))
        as_jsonl(folder, *records, name=f"sums/{name}.jsonl")
    (folder / "other").mkdir()
    image_lists(folder / "other")
    (folder / "README.md").write_text(CARD)
    return folder


def dots(folder: Path) -> Path:
    """A file of records with its pictures beside it, and another one that leads out of the data set."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures/dev-0.png").write_bytes(png(32, 32))
    pictures = ["pictures/dev-0.png", "../secret.png", str(folder / "pictures/dev-0.png")]
    as_jsonl(folder, *({"question": f"How many, {n}?", "answer": n, "images": each} for n, each in enumerate(pictures)))
    return folder


def main(folder: Path) -> None:
    os.chdir(folder)
    with serving() as hub:
        os.environ |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
        check_runs(hub, folder)


def check_runs(hub, folder: Path) -> None:
    from typer.testing import CliRunner

    from vlrl.cli.main import app
    from vlrl.config import Config
    from vlrl.inputs import row_folders, train_rows
    from vlrl.prepare import build_missing_rows

    def config_of(rows: str, **more) -> Config:
        mix = {"weight": 1, "task": "math_number", "rows": rows, "columns": {"question": "q", "answer": "a"}} | more
        return Config(name="x", model="m", steps=1, prompts_per_step=2, mixture={"sums": mix}, task_folders=(TASKS,))

    first = hub.push("made/sums", sums(folder / "one", 1))
    config = config_of("hub:made/sums/sums", eval_rows="split:held_out")
    build_missing_rows(config)
    rows, held_out = row_folders("sums", config.mixture["sums"])
    dataset = train_rows("sums", config.mixture["sums"])
    assert (len(dataset), dataset.manifest.licence) == (5, "mit, apache-2.0"), dataset.manifest
    assert dataset.manifest.source.startswith(f"hub:made/sums/sums@{first}; eval from hub:made/sums/sums@{first}:held_out")
    assert held_out.parent == rows.parent

    hub.push("made/sums", sums(folder / "two", 2))
    hub.asked.clear()
    build_missing_rows(config)
    assert row_folders("sums", config.mixture["sums"]) == (rows, held_out) and not hub.asked, (
        "main moved, and the run must not see it"
    )
    assert train_rows("sums", config.mixture["sums"]).fingerprint == dataset.fingerprint

    for kept in Path("data/cache").glob("*.commit"):
        kept.unlink()
    build_missing_rows(config)
    assert row_folders("sums", config.mixture["sums"])[0] != rows, "without the kept commit, the newest rows are built"

    pinned = config_of(f"hub:made/sums/sums@{first}", eval_rows="split:held_out")
    hub.asked.clear()
    build_missing_rows(pinned)
    assert row_folders("sums", pinned.mixture["sums"])[0] == rows and not hub.asked, "a named commit is the same rows"

    def build(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["data", "build", *arguments, "--out", "out", "--tasks", str(TASKS)])
        return " ".join(done.output.split())

    pictures = ["--columns", "question=problem,answer=answer,images=images", "--task", "counting"]
    assert "out/train: 2 rows, 3 images" in build("hub:made/sums/pictures", *pictures)
    hub.push("made/dots", dots(folder / "three"))
    said = build("hub:made/dots", "--task", "counting", "--min-kept", "0.1")
    assert "out/train: 1 rows, 1 images" in said and "2 column 'images' must be a path inside the data set" in said, said
    assert "has no split 'held_ot'; did you mean 'held_out'?" in build("hub:made/sums/sums:held_ot", "--task", "math_number")
    assert "hub:made/none cannot be read (RepositoryNotFoundError" in build("hub:made/none", "--task", "math_number")
    print("all hold")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
