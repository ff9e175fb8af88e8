"""The safetensors files of a checkpoint: downloaded once per machine, and read a tensor at a time.

A tensor's pages are those of the file in the system's cache, which all processes of a machine share and the system may drop.
"""

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from vlrl.distributed.ranks import Ranks

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
_DOWNLOAD_LIMIT = timedelta(hours=6)

Shape = tuple[int, ...]
TensorFiles = Mapping[str, tuple[Path, str]]
"""By transformers' name of a tensor its file, and its name there."""


def download_once(model: str, ranks: Ranks) -> None:
    """Downloads a model on the hub into each machine's cache, by the machine's first process while the others wait.

    All ranks call it; it does nothing for a folder. Raises ValueError, on all ranks, if a download fails, and RuntimeError after
    six hours.
    """
    if Path(model).is_dir():
        return
    fault = ""
    if ranks.local_rank == 0:
        try:
            hub_folder(model, local_only=False)
        except (OSError, ValueError) as error:
            fault = f"model {model!r} cannot be downloaded ({str(error).splitlines()[0]}); `hf download {model}` goes on with it"
    ranks.wait(f"the download of model {model!r}", _DOWNLOAD_LIMIT)
    if faults := [each for each in ranks.gather(fault) if each]:
        raise ValueError(faults[0])


def hub_folder(model: str, *, local_only: bool = True) -> Path:
    """The folder of a hub model in this machine's cache. OSError or ValueError if it is not there or cannot be downloaded."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=_DOWNLOADED, local_files_only=local_only))


def weight_files(model: str) -> list[Path]:
    """A checkpoint's safetensors files, as transformers chooses them; none if a model on the hub is not all in the cache."""
    if Path(model).is_dir():
        return _files(Path(model))
    try:
        files = _files(hub_folder(model))
    except (OSError, ValueError):
        return []
    return files if all(file.is_file() for file in files) else []


def _files(folder: Path) -> list[Path]:
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / _INDEX).is_file():
        return [folder / name for name in sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))]
    return []


def read_header(model: str, file: Path) -> dict[str, Shape]:
    """The shapes of a file's tensors by name. ValueError if the file is missing or cut off."""
    try:
        with safe_open(file, "pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own exception, and OSError
        raise ValueError(f"model {model!r}: {file.name} cannot be read ({error}); download or export the model again") from None


def read_tensor(files: TensorFiles, name: str) -> Tensor:
    """A tensor mapped from its file, which is opened for it alone: what it touched is given back with it."""
    file, released = files[name]
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(released)
