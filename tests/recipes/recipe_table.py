"""What each recipe makes of a sample of its source, or of what it draws: the table of docs/data.md.

    python -m tests.recipes.recipe_table

Prints the table; the samples are not part of the project, so a recipe without one here is told as such.
"""

import shutil
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from tests.recipes.test_recipes import ELSEWHERE, PUBLISHED, ROOT, recipe
from vlrl.data.build import build
from vlrl.data.recipe import LeftOut
from vlrl.scoring import Scorer


def told(left_out: list[LeftOut]) -> str:
    """'3 a difference, 1 asked before', or 'none'."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(left.reason for left in left_out).most_common()) or "none"


def main() -> None:
    print("| recipe | source | licence | task | rows of its sample | left out |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in sorted((ROOT / "data_recipes").glob("*.py")):
        whole, sample = recipe(path.stem), PUBLISHED.get(path.stem)
        result = "not here |"
        if path.stem not in ELSEWHERE and (sample is None or sample.exists()):
            whole = replace(whole, sizes=whole.sizes if sample is None else {"train": 0, "eval": None})
            folder = Path(tempfile.mkdtemp())
            with Scorer([ROOT / "tasks"], 2, 30.0, memory_mb=2048) as scorer, redirect_stdout(sys.stderr):
                built, left_out = build(whole, folder, scorer, source=str(sample) if sample else None)
            shutil.rmtree(folder)
            result = f"{sum(map(len, built.values()))} | {told(left_out)}"
        print(f"| {path.stem} | {whole.source} | {whole.licence} | {whole.task} | {result} |", flush=True)


if __name__ == "__main__":
    main()
