"""What a checkpoint's config.json says, read without torch."""

import json
from pathlib import Path
from typing import Any

from vlrl.common.folder_lock import LOCK
from vlrl.common.suggest import nearest_folder

MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe")
_CONFIG = "config.json"
_OF_A_RUN = ("config.yaml", LOCK)  # files of a run's folder before its end


def is_moe(text_config: dict) -> bool:
    """Whether a checkpoint's language model is a mixture of experts."""
    return bool(text_config.get("num_experts_per_tok"))


def num_experts(text_config: dict) -> int:
    """Of a mixture: transformers writes the one name and reads either."""
    return text_config.get("num_local_experts") or text_config["num_experts"]


def read_local_config(model: str) -> dict[str, Any] | None:
    """The config.json of a checkpoint in a folder; None for a model on the hub.

    ValueError where the folder, or the one that a mistyped name stands in, holds no Qwen3-VL.
    """
    folder = Path(model)
    may_be_on_the_hub = (
        not folder.is_absolute() and len(folder.parts) <= 2 and not (folder.parent != Path() and folder.parent.is_dir())
    )
    if not folder.is_dir() and may_be_on_the_hub:
        return None
    if not (folder / _CONFIG).is_file():
        if folder.name == "model" and any((folder.parent / name).exists() for name in _OF_A_RUN):
            raise ValueError(
                f"model {model!r}: the run {folder.parent} has no model yet, since a run writes it at its end; wait for that, or "
                "resume the run"
            )
        what = f"the folder has no {_CONFIG}" if folder.is_dir() else "there is no such folder"
        remedy = nearest_folder(folder, with_file=_CONFIG).strip() or "give a Hugging Face folder"
        raise ValueError(f"model {model!r}: {what}; {remedy}")
    try:
        config = json.loads((folder / _CONFIG).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"model {model!r}: its {_CONFIG} is not JSON ({error}); export the model again") from None
    check_type(model, config.get("model_type"))
    return config


def check_type(model: str, model_type: str | None) -> None:
    """ValueError where it is no Qwen3-VL."""
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model {model!r} is a {model_type!r}; vlrl trains {' and '.join(MODEL_TYPES)}")
