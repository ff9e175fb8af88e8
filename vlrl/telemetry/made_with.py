"""made_with.json in a run's folder: the parts, the devices and the command that a run ended with, for its model card."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import read_json, write_atomically
from vlrl.common.versions import versions

MADE_WITH = "made_with.json"


def write_made_with(folder: Path, *, model: str, ranks: int) -> None:
    """Writes the file anew. model: the run file's model, which is a folder or on the hub. Raises OSError with advice."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    content = {
        "versions": versions(),
        "ranks": ranks,
        "ranks_per_host": int(os.environ.get("LOCAL_WORLD_SIZE", ranks)),
        "device": device,
        "model_is_a_folder": Path(model).is_dir(),
        "arguments": sys.argv[1:],
    }
    write_atomically(folder / MADE_WITH, [json.dumps(content, indent=2) + "\n"])


def read_made_with(folder: Path) -> dict[str, Any]:
    """The file's content; empty for a run that ended before vlrl wrote it. Raises ValueError if it is damaged."""
    path = folder / MADE_WITH
    return read_json(path, "remove it, and the model card leaves it out") if path.exists() else {}
