"""The run file: one complete YAML per run, checked before anything starts.

An unknown key is an error that suggests the nearest known one. Overrides `a.b=c` come from the command line. Numbers that YAML
reads as text (`1e-6`) are accepted. The run folder keeps the resolved file.
"""

import difflib
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from vlrl.common.suggest import nearest
from vlrl.config import Config


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Reads a run file and applies `a.b=c` overrides. ValueError with a sentence for each fault."""
    try:
        with Path(path).open() as text:
            raw = yaml.load(text, _Loader)
    except (FileNotFoundError, IsADirectoryError):
        folder = path if path.is_dir() else path.parent
        near = nearest(str(path), map(str, sorted(folder.glob("*.yaml"))))
        if (path / "model").is_dir():  # a run's folder, whose config.yaml names the model that it began with
            near += f"for its trained model add model={path / 'model'}; "
        raise ValueError(f"no run file {path}; {near}configs/ holds complete ones to start from") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: a run file is a mapping of settings; this one holds {type(raw).__name__}")
    _check_form(overrides)
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], where: str) -> Config:
    """Checks the settings. ValueError names the key of each fault and, for an unknown key, suggests the nearest known one."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        tasks = [str(name) for name in raw["mixture"]] if isinstance(raw.get("mixture"), dict) else []
        raise ValueError("\n".join(_sentence(fault, where, tasks) for fault in error.errors())) from None


def dump_config(config: Config, *, defaults: bool = True) -> str:
    """The resolved run file as YAML, which `parse_config` reads back as an equal Config.

    defaults: includes unchanged settings.
    """
    return yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=not defaults), sort_keys=False)


class _Loader(yaml.SafeLoader):
    """YAML takes the last of two values of a key, and the reader of a run file may have seen the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                where = f"{self.name}:{key.start_mark.line + 1}"
                raise ValueError(f"{where}: the key {key.value!r} is there twice; leave one of them out")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_form(overrides: tuple[str, ...]) -> None:
    """ValueError for an override that is not `a.b=c`, with the right spelling."""
    for place, override in enumerate(overrides):
        key, equals, value = override.lstrip("-").partition("=")
        following = [each.lstrip("=") for each in overrides[place + 1 :] if each != "="]
        right = f"{key or 'key'}={value or next(iter(following), 'value')}"
        if place and not equals and overrides[place - 1].endswith("="):
            right = f"{overrides[place - 1]}{override}"
        if override.startswith("-"):
            raise ValueError(f"no option {override!r}; write a setting without dashes: {right}")
        if not key or not equals:
            raise ValueError(f"override {override!r}: write it without blanks around the =, as {right}")


def _apply(raw: dict[str, Any], override: str) -> None:
    path, _, value = override.partition("=")
    *parents, last = path.split(".")
    node = raw
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ValueError(f"override {override!r}: {name!r} is a single value, it has no settings below it")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"override {override!r}: {value!r} is not YAML; quote what holds brackets, braces or colons") from None


def _sentence(fault: Any, where: str, tasks: list[str]) -> str:
    """A pydantic error as a sentence. tasks: the names in the mixture; a mistyped one in an override has no other settings."""
    place = [str(part) for part in fault["loc"]]
    message = fault["msg"].removeprefix("Value error, ")
    if not place:
        return "\n".join(f"{where}: {line}" for line in message.splitlines())
    if fault["type"] == "missing":
        is_of_task = place[0] == "mixture" and len(place) == 3
        near = difflib.get_close_matches(place[1], [name for name in tasks if name != place[1]], n=1) if is_of_task else []
        meant = f"; did you mean mixture.{near[0]}?" if near else ""
        return f"{where}: {'.'.join(place)}: is missing; it has no default{meant}"
    if fault["type"] != "extra_forbidden":
        return f"{where}: {'.'.join(place)}: {message} (got {fault['input']!r})"
    known = _known_keys(place[:-1])
    nearest = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.0)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{where}: {'.'.join(place)}: unknown key {place[-1]!r}; {hint}Known keys: {', '.join(known)}"


def _known_keys(place: list[str]) -> list[str]:
    section: Any = Config
    for name in place:  # the keys of a dict of sections, such as the mixture's tasks, are the user's own
        section = section.model_fields[name].annotation if name in getattr(section, "model_fields", {}) else get_args(section)[1]
        section = get_args(section)[0] if isinstance(section, UnionType) else section  # of a section that may be left out
    return list(section.model_fields)
