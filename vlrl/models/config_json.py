"""What a checkpoint's config.json says, and the family that it names; read without torch."""

import json
from pathlib import Path
from typing import Any

from vlrl.common.folder_lock import LOCK
from vlrl.common.suggest import nearest_folder
from vlrl.models.families.family import Family
from vlrl.models.families.qwen2_5_vl import QWEN2_5_VL
from vlrl.models.families.qwen2_vl import QWEN2_VL
from vlrl.models.families.qwen3_5 import QWEN3_5
from vlrl.models.families.qwen3_5_moe import QWEN3_5_MOE
from vlrl.models.families.qwen3_vl import QWEN3_VL
from vlrl.models.families.qwen3_vl_moe import QWEN3_VL_MOE

FAMILIES = {family.model_type: family for family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, QWEN3_VL_MOE, QWEN3_5, QWEN3_5_MOE)}
"""By the model_type of config.json."""
_CONFIG = "config.json"
_OF_A_RUN = ("config.yaml", LOCK)  # files of a run's folder before its end


def family_of(model_type: str | None, *, model: str = "") -> Family:
    """The family of a model by the model_type of its config.json. ValueError, naming the model, for one that vlrl can't train."""
    if model_type not in FAMILIES:
        *others, last = FAMILIES
        raise ValueError(
            f"model {model!r} is a {model_type!r}; vlrl trains {', '.join(others)} and {last}; "
            "docs/own-family.md says how to add a family"
        )
    return FAMILIES[model_type]


def text_config_of(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config.json, which older checkpoints have at its top."""
    return config.get("text_config") or config


def is_moe(text_config: dict) -> bool:
    """Whether a checkpoint's language model is a MoE model."""
    return bool(text_config.get("num_experts_per_tok"))


def num_experts(text_config: dict) -> int:
    """Of a mixture: transformers writes the one name and reads either."""
    return text_config.get("num_local_experts") or text_config["num_experts"]


def read_local_config(model: str) -> dict[str, Any] | None:
    """The config.json of a checkpoint in a folder; None for a model on the hub.

    Raises ValueError if the folder, or the folder of a mistyped name, holds no model that vlrl trains.
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
    family_of(config.get("model_type"), model=model)
    return config
