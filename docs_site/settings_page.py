"""The page of every setting of a run file, made of the classes in vlrl.config: its default, what is allowed, and what it is for.

The docstring of a class says what the section is, and then, in sentences that begin with names, what its settings are:
"name: what it is." or "name, other: what both are."
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from docs_site.named_sentences import named_sentences
from vlrl.config import Config

NAMES = {"mixture": "TASK", "build.data": "FOLDER"}
"""What a section whose keys are free calls them; the others' keys are NAME."""
HEAD = """# Every setting of a run file

This page is made of the classes of `vlrl/config.py`. A run file is YAML: the headings below are its blocks, and
`policy.lr=1e-5` on the command line is `lr` in the block `policy`. An unknown key is an error that suggests the nearest name.
`vlrl plan RUN.yaml` prints the settings that differ from these defaults.
"""


@dataclass(frozen=True)
class Block:
    """A section of the run file: its path, as in scoring.judges.NAME, its class, and whether a run file may lack it."""

    path: str
    section: type[BaseModel]
    is_optional: bool


def blocks(section: type[BaseModel] = Config, path: str = "", is_optional: bool = False) -> Iterator[Block]:
    """The section itself, and then the sections in it, in the order of their fields."""
    yield Block(path, section, is_optional)
    for name, field in section.model_fields.items():
        below = f"{path}.{name}".lstrip(".")
        if inner := section_in(field.annotation):
            is_mapping = get_origin(field.annotation) is dict
            yield from blocks(inner, f"{below}.{NAMES.get(below, 'NAME')}" if is_mapping else below, field.default is None)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds: itself, or none, or by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (dict, Union, UnionType):
        return next(filter(None, map(section_in, get_args(annotation))), None)
    return None


def said(section: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a section's docstring says of the section, and of its settings by name; what it lacks, its base's says."""
    about, sentences = named_sentences(section.__doc__ or "", section.model_fields)
    base = section.__base__
    inherited = said(base)[1] if base and issubclass(base, BaseModel) and base is not BaseModel else {}
    return about, inherited | {name: what for names, what in sentences for name in names}


def settings(section: type[BaseModel]) -> list[str]:
    """The names of the section's settings that are not sections themselves."""
    return [name for name, field in section.model_fields.items() if not section_in(field.annotation)]


def unsaid() -> list[str]:
    """The sections and settings of which no docstring says what they are."""
    found = []
    for block in blocks():
        about, sentences = said(block.section)
        found += [] if about else [f"{block.section.__name__}: the section itself"]
        found += [f"{block.section.__name__}.{name}" for name in settings(block.section) if not sentences.get(name)]
    return sorted(set(found))


def allowed(schema: dict[str, Any]) -> str:
    """In words what a setting of this JSON schema may be."""
    if "anyOf" in schema:
        return " or ".join(filter(None, map(allowed, schema["anyOf"])))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in values)
    if schema.get("type") in ("integer", "number"):
        return " ".join(filter(None, ["whole number" if schema["type"] == "integer" else "number", _bounds(schema)]))
    kinds = {"boolean": "`true` or `false`", "array": "list", "object": "mapping", "string": "text", "null": ""}
    return "path" if schema.get("format") == "path" else kinds.get(schema.get("type", ""), "")


def _bounds(schema: dict[str, Any]) -> str:
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    if high is not None:
        return f"from {low:g} to {high:g}" if low is not None else f"above {above:g}, up to {high:g}"
    return f"from {low:g}" if low is not None else f"above {above:g}" if above is not None else ""


def _shown(schema: dict[str, Any]) -> str:
    """A setting's default as YAML writes it."""
    if "default" not in schema:
        return "**required**"
    value = schema["default"]
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _table(section: type[BaseModel]) -> str:
    """The table of a section's settings, or nothing if it only holds sections."""
    sentences, schema = said(section)[1], section.model_json_schema()["properties"]
    rows = []
    for name in settings(section):
        kind = allowed(schema[name])
        cells = (f"`{name}`", f"{_shown(schema[name])}<br>{kind}" if kind else _shown(schema[name]), linked(sentences[name]))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    head = "| setting | default, and what it may be | what it is |\n| --- | --- | --- |\n"
    return f'<div class="stacked" markdown>\n\n{head}{"".join(rows)}\n</div>\n' if rows else ""


def linked(text: str) -> str:
    """A docstring's text as Markdown: a page of docs/ becomes a link, and a sentence begins with a capital letter."""
    text = re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)
    return text[:1].upper() + text[1:]


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for block in blocks():
        note = " It is off unless the run file has it." if block.is_optional else ""
        parts.append(f"## {f'`{block.path}`' if block.path else 'The run'}\n\n{linked(said(block.section)[0])}{note}\n")
        parts.append(_table(block.section))
    return "\n".join(parts)


if __name__ == "__main__":
    print(page())
