"""`vlrl init`: lays out a folder to work in."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from vlrl.cli.shared import sentences
from vlrl.preflight.machine import driver_version

STARTER = Path(__file__).parents[1] / "starter"
"""What `vlrl init` copies. In a clone its tasks, data_recipes and configs are links to the folders at the top; a wheel holds
their files."""


def init(folder: Annotated[Path, typer.Argument(help="The new folder.")]) -> None:
    """Lays out a folder with tasks, recipes, run files and a README, and prints the next commands."""
    with sentences():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is not an empty folder; name a new or an empty one")
        shutil.copytree(STARTER, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        (folder / "gitignore").rename(folder / ".gitignore")
    first = "vlrl prepare configs/qwen3vl_2b.yaml" if driver_version() else "vlrl train configs/cpu.yaml"
    print(f"{folder} is ready; {folder}/README.md says what is in it. Next:\n\n    cd {folder}\n    {first}")
