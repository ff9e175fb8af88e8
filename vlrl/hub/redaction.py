"""What a published file must not say: this machine's paths, addresses of services, names of environment variables."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vlrl.config import Config

# Two parts or more, so that /no_think and </answer> in a prompt stay.
_PATH = re.compile(r"(?<![\w.…<])(?:~|\.\.)?(?:/[^\s/'\"`,;:|<>]+){2,}/?|(?<![\w.…])(?:~|\.\.)(?:/[^\s/'\"`,;:|<>]+)+/?")
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"]+", re.IGNORECASE)
_LEFT_OUT = {"runs", "wandb", "tensorboard", "trackio", "mlflow"}
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters; a shorter value, such as "true", says nothing

ADDRESS = "http://address-left-out"


def redacted(text: str) -> str:
    """The text with each path of a machine cut to its last part, and without addresses.

    >>> redacted("hub:made/sums@1f; eval from /home/kim/sums.jsonl"), redacted("data/digits/train"), redacted("../x/train")
    ('hub:made/sums@1f; eval from …/sums.jsonl', 'data/digits/train', '…/train')
    >>> redacted("/home/kim lee/models/8B"), redacted("see http://10.0.0.5:8000/v1"), redacted("answer </a>/no_think")
    ('…/8B', 'see http://address-left-out', 'answer </a>/no_think')
    """
    text = _ADDRESS.sub(ADDRESS, text)
    if text.startswith(("/", "~/", "../")) and "\n" not in text and len(Path(text).parts) > 2:
        return f"…/{Path(text).name}"
    return _PATH.sub(lambda found: f"…/{Path(found[0]).name}", text)


def public_settings(config: Config, *, defaults: bool = True) -> str:
    """The run file as YAML, without trackers and places of this machine. defaults: includes unchanged settings."""
    settings = config.model_dump(mode="json", exclude_defaults=not defaults, exclude=_LEFT_OUT)
    scoring = settings.get("scoring", {})
    scoring.pop("replies", None)
    for kind in ("judges", "graders", "reward_models"):
        for service in scoring.get(kind, {}).values():
            service.pop("key_env", None)
            if "url" in service:
                service["url"] = ADDRESS
    return yaml.safe_dump(_redacted_value(settings), sort_keys=False, allow_unicode=True, width=120)


def public_command(arguments: list[str]) -> str:
    """The command line that made a run, with paths cut to their last part.

    >>> public_command(["train", "/home/kim/run.yaml", "steps=3", "runs=/scratch/kim/runs"])
    'vlrl train …/run.yaml steps=3 runs=…/runs'
    """
    return " ".join(["vlrl", *("=".join(redacted(part) for part in argument.split("=", 1)) for argument in arguments)])


def _redacted_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {redacted(key): _redacted_value(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_redacted_value(each) for each in value]
    return redacted(value) if isinstance(value, str) else value


def check_private(files: list[Path], run: Path) -> None:
    """Raises ValueError if a text among the files has a path of this machine or the value of a secret environment variable.

    The last guard: files that a checkpoint's author wrote are published as they are.
    """
    private = list(_private(run))
    for file in files:
        if file.suffix not in (".md", ".json", ".yaml", ".jinja", ".txt"):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        for what, value in private:
            if value in text:
                raise ValueError(f"{file.name} would publish {what}; remove it from {file} or from the run file, then push again")


def _private(run: Path) -> Iterator[tuple[str, str]]:
    folders = {"the run's folder": run.resolve(), "your home folder": Path.home(), "the working folder": Path.cwd()}
    yield from ((f"the path of {what}", str(path)) for what, path in folders.items() if len(path.parts) > 2)
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            yield f"the value of the environment variable {name}", value
