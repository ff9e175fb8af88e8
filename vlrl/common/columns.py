"""Which column of a source holds which field of a row: `columns:` of the run file, `--columns` of `vlrl data build`."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, model_validator

from vlrl.common.suggest import nearest

VERSION = 1
"""Of the rows that are made of a source by its columns; it is in their manifest, and in the name of a run's cached rows."""


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _shortest(names: tuple[str, ...]) -> Any:
    return names[0] if len(names) == 1 else list(names)


Names = Annotated[tuple[str, ...], BeforeValidator(_listed), PlainSerializer(_shortest)]
"""The name of a column, or a list of names."""


class Columns(BaseModel):
    """The columns of a source by the row's fields. A dot leads into a column that holds objects or lists: meta.answer, answers.0.

    If no field is named, each field is the column of its own name, and messages is also the column conversations.

    question: several columns are joined by line feeds. answer: text, a number or a class label. images: one column of
    pictures or of lists of them, or several columns. options: of a multiple choice, one column of lists, or several columns.
    response: a demonstration. messages: a chat with a question and perhaps a response, instead of these two columns. meta:
    other columns that the task's verifier reads, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: Names = ()
    answer: str | None = None
    images: Names = ()
    options: Names = ()
    response: str | None = None
    messages: str | None = None
    meta: dict[str, str] = {}

    @model_validator(mode="after")
    def _names_one_question(self) -> "Columns":
        if self.by_field and bool(self.question) == bool(self.messages):
            found = "both question and messages" if self.question else "neither question nor messages"
            raise ValueError(f"names {found}; name one, as in question: problem")
        if self.messages and self.response:
            raise ValueError("names both response and messages, whose last turn is the response; leave out response")
        return self

    def __str__(self) -> str:
        return ", ".join(f"{field}={column}" for field, columns in self.by_field.items() for column in columns)

    @property
    def by_field(self) -> dict[str, tuple[str, ...]]:
        """The columns of each field that has any; those of meta are meta.NAME."""
        single = {name: (column,) for name in ("answer", "response", "messages") if (column := getattr(self, name))}
        several = {name: getattr(self, name) for name in ("question", "images", "options") if getattr(self, name)}
        return several | single | {f"meta.{name}": (column,) for name, column in self.meta.items()}

    @property
    def has_gold(self) -> bool:
        """Whether rows have an answer or a response, which the task's verifier must accept."""
        return bool(self.answer or self.response or self.messages)


def parse_columns(texts: Iterable[str]) -> Columns:
    """Reads `question=problem,answer=meta.answer`; a field may be repeated, as in images=left,images=right.

    Raises ValueError for an unknown field.

    >>> parse_columns(["question=Body,question=Question", "answer=Answer"]).by_field
    {'question': ('Body', 'Question'), 'answer': ('Answer',)}
    """
    found: dict[str, Any] = {}
    for pair in (pair for text in texts for pair in text.split(",") if pair.strip()):
        field, equals, column = (part.strip() for part in pair.partition("="))
        if not (field and equals and column):
            raise ValueError(f"--columns {pair!r}: write FIELD=COLUMN, as in question=problem,answer=answer")
        if field.startswith("meta."):
            found.setdefault("meta", {})[field.removeprefix("meta.")] = column
        elif field not in Columns.model_fields or field == "meta":
            known = [*(name for name in Columns.model_fields if name != "meta"), "meta.NAME"]
            raise ValueError(f"--columns {pair!r}: no field {field!r}; {nearest(field, known)}fields: {', '.join(known)}")
        else:
            found.setdefault(field, []).append(column)
    for field, names in found.items():
        if field in ("answer", "response", "messages"):
            if len(names) > 1:
                raise ValueError(f"--columns: {field} has the columns {' and '.join(names)}; it may have one")
            found[field] = names[0]
    try:
        return Columns(**found)
    except ValidationError as error:
        raise ValueError(f"--columns: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
