"""Writes what is published of a run into a folder: the export, the model card and its pictures."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from vlrl.hub.card import card
from vlrl.hub.curves import write_curves
from vlrl.hub.finished import FinishedRun
from vlrl.hub.redaction import check_private

CARD = "README.md"


def write_folder(run: FinishedRun, folder: Path, *, repo: str, branch: str = "", licence: str = "") -> list[Path]:
    """Writes a new or empty folder, and returns its files. Weights are linked, not copied, if the disk is the same.

    Raises ValueError if the folder has files already, or a text would publish something private, and OSError if it cannot be
    written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder, or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in run.files:
            _publish(file, folder / file.name, run.base)
        curves = write_curves(run, folder)
        (folder / CARD).write_text(card(run, repo=repo, branch=branch, licence=licence, curves=curves), encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"cannot write {folder}: {error.strerror}; make room, or name a folder on another disk with --to"
        ) from error
    files = sorted(folder.iterdir())
    check_private(files, run.folder)
    return files


def _publish(file: Path, to: Path, base: str) -> None:
    """Links weights and copies other files. An adapter's settings get the hub's name of the model that it belongs to."""
    if file.name == "adapter_config.json":
        settings = json.loads(file.read_text()) | {"base_model_name_or_path": base}
        to.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        return
    if file.suffix == ".safetensors":
        with suppress(OSError):  # another disk, or one without links
            os.link(file, to)
            return
    shutil.copyfile(file, to)
