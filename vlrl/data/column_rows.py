"""Makes rows of a source's records by its columns, without a recipe's file, for `vlrl data build` and for `columns:` of a run.

Before anything is built, a few records decide: a column that none of them has is refused, and one whose values are all of the
wrong kind. Later on such a value costs its record alone. Records without a question or an answer are left out.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any, TypeVar

from vlrl.common.columns import VERSION, Columns
from vlrl.common.suggest import nearest
from vlrl.data.cells import Chat, WrongKind, chat_in, columns_of, kind_of, options_in, pictures_in, plain_text, value_at
from vlrl.data.recipe import Drop, Fault, Recipe
from vlrl.data.shards import NewRow
from vlrl.data.source_files import Source, described, records_of
from vlrl.data.sources import SourceError
from vlrl.verifiers.answers import last_boxed

T = TypeVar("T")
log = logging.getLogger(__name__)

_FIRST = 100  # records that are looked at before the build
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?", re.IGNORECASE)
_PLACEHOLDER = "<image>"
Record = tuple[Path, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowMaker:
    """Makes rows of records. answers: how answers name an option, one of _PLACES.

    is_remote: whether the records come from the hub, whose paths must not lead to other files of this machine.
    """

    columns: Columns
    is_remote: bool = False
    answers: str = "letters"

    def __call__(self, found: Record) -> NewRow:
        """The row. Raises Drop for a record that lacks something, and Fault for one with a value that cannot be used."""
        folder, record = found
        columns, pictures = self.columns, partial(pictures_in, folder=folder, inside=self.is_remote)
        images = [picture for column in columns.images for picture in _read(record, column, pictures)]
        meta = {name: value for name, column in columns.meta.items() if (value := value_at(record, column)) is not None}
        chat = _chat_of(record, columns)
        images = images or _read({"messages": list(chat.pictures)}, "messages", pictures)
        meta |= {"system": chat.system} if chat.system else {}
        answer = _answer_of(record, columns, chat)
        if columns.options:
            meta["options"] = _read_options(record, columns.options)
        self._check(record, chat.question, answer, chat.response, images)
        if columns.options:
            answer = self._letter(answer, meta["options"])
        question = chat.question.replace(_PLACEHOLDER, "").strip()
        return NewRow(question=question, answer=answer, images=tuple(images), meta=meta, response=chat.response)

    def _check(self, record: Mapping[str, Any], question: str, answer: str, response: str, images: Sequence[Any]) -> None:
        columns = self.columns
        if not question.replace(_PLACEHOLDER, "").strip():
            raise Drop("no question")
        if columns.response and not response:
            raise Drop("no response")
        if not answer and columns.has_gold:
            raise Drop("no answer" if columns.answer or not response else "no answer in \\boxed{} in the response")
        if not images and columns.images and not any(isinstance(value_at(record, each), list) for each in columns.images):
            raise Drop("no picture is named")
        if not images and _PLACEHOLDER in question:
            raise Fault("a question with <image>, but no picture")

    def _letter(self, answer: str, options: Sequence[str]) -> str:
        place = _PLACES[self.answers](answer, options)
        if self.answers == "numbers" and place == len(options):
            raise SourceError(
                f"column {self.columns.answer!r} has the answer {answer} of {len(options)} options: it counts them from 1; "
                "give the letters or texts of options as answers, or write a recipe: vlrl new recipe NAME"
            )
        if place is None or place >= len(options):
            raise Fault("an answer that is none of its options", f"{answer!r:.60} of {options!r:.200}")
        return ascii_uppercase[place]


def recipe_of(
    source: Source,
    columns: Columns,
    task: str,
    *,
    licence: str,
    held_out: Source | int | None = None,
) -> Recipe:
    """A recipe for the rows of a source: all of them are for training, but for those that are held out.

    held_out: how many rows to draw for eval, or a source with its rows. Its records come first, so that training loses a question
    that is in both. Raises SourceError if a source cannot be read, or lacks a column.
    """
    own = isinstance(held_out, Source)
    sources = [held_out, source] if isinstance(held_out, Source) else [source]
    makers = {each: _maker(each, columns) for each in sources}
    num_held_out = 0

    def raws(_: str | None, seed: int) -> Iterator[tuple[RowMaker, Record]]:
        nonlocal num_held_out
        num_held_out = 0
        for each in sources:
            for record in records_of(each):
                num_held_out += own and each is sources[0]
                yield makers[each], record

    def to_row(raw: tuple[RowMaker, Record]) -> NewRow:
        maker, record = raw
        return maker(record)

    return Recipe(
        name=source.place,
        path=Path(__file__),
        task=task,
        source="; ".join(["; eval from ".join(map(described, reversed(sources))), f"columns {makers[source].columns}"]),
        licence=licence,
        version=VERSION,
        sizes={"train": None, "eval": (held_out or 0) if not isinstance(held_out, Source) else None},
        has_gold=makers[source].columns.has_gold,
        raws=raws,
        to_row=to_row,
        is_held_out=(lambda number: number <= num_held_out) if own else None,
    )


def _maker(source: Source, columns: Columns) -> RowMaker:
    """The row maker of a source, after a look at its first records. Raises SourceError as `recipe_of` does."""
    first = list(islice(records_of(source), _FIRST))
    if not first:
        raise SourceError(f"{source} has no records")
    known = list(dict.fromkeys(column for _, record in first for column in columns_of(record)))
    columns = columns if columns.by_field else _own_names(source, known)
    for field, names in columns.by_field.items():
        for column in names:
            values = [value for _, record in first if (value := value_at(record, column)) is not None]
            if column not in known and not values:
                raise SourceError(
                    f"{source} has no column {column!r} for {field}; {nearest(column, known)}its columns: {', '.join(known)}"
                )
            _check_kind(source, field, column, values, is_alone=len(names) == 1)
    if columns.messages:
        _note_system(source, columns.messages, first)
    answers = _answer_form(source, columns, [record for _, record in first]) if columns.options else "letters"
    return RowMaker(columns=columns, is_remote=source.on_hub, answers=answers)


def _own_names(source: Source, known: Sequence[str]) -> Columns:
    """The columns that have a field's name. Raises SourceError if no question is among them."""
    found = {field: field for field in Columns.model_fields if field in known and field != "meta"}
    if "conversations" in known:
        found.setdefault("messages", "conversations")
    if ("question" in found) == ("messages" in found):
        raise SourceError(
            f"{source}: name the columns of question and answer, as in columns: {{question: problem, answer: answer}} or "
            f"--columns question=problem,answer=answer; its columns: {', '.join(known)}"
        )
    return Columns(**found)  # type: ignore[arg-type]  # a name becomes a list of one


def _check_kind(source: Source, field: str, column: str, values: Sequence[Any], *, is_alone: bool) -> None:
    """Raises SourceError if none of the values can be what the field needs."""
    read: dict[str, Callable[[Any], Any]] = {
        "images": lambda value: pictures_in(value, Path(), inside=source.on_hub),
        "options": (lambda value: options_in([value])) if is_alone else plain_text,
        "messages": chat_in,
    }
    fault = ""
    for value in values if not field.startswith("meta.") else ():
        try:
            read.get(field, plain_text)(value)
            return
        except WrongKind as error:
            fault = fault or f"{source}: column {column!r} holds {kind_of(value)}, but {field} {error}"
    if fault and field == "question":
        with suppress(WrongKind):
            chat_in(values[0])
            fault += f"; it is a chat, so name it as messages: {column}"
    if fault:
        raise SourceError(fault)


def _note_system(source: Source, column: str, first: Sequence[Record]) -> None:
    """Logs that chats have a system prompt, which no row repeats to the model."""
    for _, record in first:
        with suppress(WrongKind):
            if (chat := chat_in(value_at(record, column))) and chat.system:
                log.warning(
                    "%s: its chats have a system prompt, which rows keep as meta.system only; for the model to get it, set "
                    "mixture.TASK.system in the run file; the first: %.200r", source, chat.system,
                )  # fmt: skip
                return


def _answer_form(source: Source, columns: Columns, first: Sequence[Mapping[str, Any]]) -> str:
    """How the first answers name options. Raises SourceError if they name none, or if two readings differ."""
    pairs = []
    for record in first:
        with suppress(Drop):
            pairs.append((_answer_of(record, columns, _chat_of(record, columns)), _read_options(record, columns.options)))
    if not pairs:
        return "letters"
    places = {form: [_valid(place(*pair), pair[1]) for pair in pairs] for form, place in _PLACES.items()}
    num_valid = {form: sum(place is not None for place in found) for form, found in places.items()}
    best = [form for form, num in num_valid.items() if num == max(num_valid.values())]
    answer, options = pairs[0]
    shown = f"the first is {answer!r:.60} of {options!r:.200}"
    if not max(num_valid.values()):
        raise SourceError(f"{source}: no answer is an option's letter, its text, or its number from 0; {shown}")
    if any(places[form] != places[best[0]] for form in best):
        raise SourceError(
            f"{source}: the answers can be read as {' and as '.join(best)} of options; {shown}; write a recipe for it"
        )
    if best[0] == "numbers":
        log.warning("%s: its answers are read as numbers of options, and 0 is the first option; %s", source, shown)
    return best[0]


def _valid(place: int | None, options: Sequence[str]) -> int | None:
    return place if place is not None and place < len(options) else None


def _lettered(answer: str, options: Sequence[str]) -> int | None:
    found = _LETTER.fullmatch(answer)
    return ascii_uppercase.index(found[1].upper()) if found else None


def _written(answer: str, options: Sequence[str]) -> int | None:
    return options.index(answer) if options.count(answer) == 1 else None


def _numbered(answer: str, options: Sequence[str]) -> int | None:
    return int(answer) if re.fullmatch("[0-9]{1,3}", answer) else None


_PLACES: dict[str, Callable[[str, Sequence[str]], int | None]] = {"letters": _lettered, "texts": _written, "numbers": _numbered}
"""The place of the option that an answer names, by the form that a source's answers have; None if it has another form."""


def _chat_of(record: Mapping[str, Any], columns: Columns) -> Chat:
    """The question and the response of a record, of its chat or of their own columns."""
    if columns.messages:
        if value_at(record, columns.messages) is None:
            raise Drop("no question")
        if chat := _read(record, columns.messages, chat_in):
            return chat
        raise Drop("a chat of more than one question and response")
    question = "\n".join(filter(None, (_read(record, column, plain_text) for column in columns.question)))
    return Chat(question=question, response=_read(record, columns.response, plain_text) if columns.response else "")


def _answer_of(record: Mapping[str, Any], columns: Columns, chat: Chat) -> str:
    """The answer's column, or else what is in the last box of the response."""
    return _read(record, columns.answer, plain_text) if columns.answer else last_boxed(chat.response) or ""


def _read(record: Mapping[str, Any], column: str, read: Callable[[Any], T]) -> T:
    """The column's value by `read`; a value of the wrong kind raises Fault."""
    value = value_at(record, column)
    try:
        return read(value)
    except WrongKind as error:
        raise Fault(f"column {column!r} {error}", kind_of(value)) from None


def _read_options(record: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    values = [value_at(record, column) for column in columns]
    if all(value is None for value in values):
        raise Drop("no options")
    try:
        options = options_in(values)
    except WrongKind as error:
        raise Fault(f"column {columns[0]!r} {error}", kind_of(values[0])) from None
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise Drop("fewer than 2 options, or more than 26", f"{len(options)} options")
    if not all(options):
        raise Drop("an empty option", f"{options!r:.200}")
    if len(set(options)) < len(options):
        raise Drop("a repeated option", f"{options!r:.200}")
    return options
