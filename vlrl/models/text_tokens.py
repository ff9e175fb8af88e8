"""A chat's text to token ids, in which only the chat template writes control tokens.

A tokenizer reads `<|im_end|>` as the token that ends a turn, wherever it finds it. A question that quotes it would end its own
turn, and one with an image's placeholder would ask for an image. Here the text of the data stays text: it becomes the tokens that
the tokenizer would give it if it knew no control tokens.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import _get_template_variables

from vlrl.common.responses import CLOSING, OPENING, opened_reasoning
from vlrl.types import Message

_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # no characters: Unicode reserves them for use inside a program
_NOT_TEXT = ("role", "type", "image")  # of a message, or of a part of its content


class TextTokens:
    """Renders chats with the tokenizer's chat template and encodes them; encodes demonstrations.

    tokenizer: of transformers, with a backend of the tokenizers library. template_kwargs: variables of its chat template.
    Raises ValueError for a variable that the template does not use or that vlrl sets itself.
    """

    def __init__(self, tokenizer: Any, template_kwargs: Mapping[str, Any] = MappingProxyType({})):
        self._tokenizer = tokenizer
        self._template_kwargs = dict(template_kwargs)
        _check_template(tokenizer.get_chat_template(), self._template_kwargs)
        self._control: dict[str, int] = tokenizer.get_added_vocab()
        plain = json.loads(tokenizer.backend_tokenizer.to_str())
        self._plain = Tokenizer.from_str(json.dumps(plain | {"added_tokens": [], "truncation": None, "padding": None}))
        longest_first = sorted(self._control, key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, longest_first)))
        # A text may also end with the beginning of a control token that the next one completes.
        beginnings = {name[:length] for name in self._control for length in range(1, len(name))}
        cut_off = "|".join(map(re.escape, sorted(beginnings, key=len, reverse=True)))
        self._find_or_begun = re.compile(rf"{self._find.pattern}|(?:{cut_off})\Z")

    def chat(self, messages: Sequence[Message]) -> tuple[list[int], str]:
        """The ids of a chat whose next turn is the assistant's, and the reasoning that the template opens for it, else ""."""
        mark, marked = self._marked(list(messages))
        rendered = self._tokenizer.apply_chat_template(
            marked, tokenize=False, add_generation_prompt=True, **self._template_kwargs
        )
        return self._encode(rendered, mark), opened_reasoning(rendered)

    def response(self, text: str) -> list[int]:
        """A response's ids. Its reasoning tags are the model's own; every other control token in it is text."""
        mark, marked = self._marked(text, but=(OPENING, CLOSING))
        return self._encode(marked, mark)

    def _marked(self, texts: Any, but: Sequence[str] = ()) -> tuple[str, Any]:
        """A mark, and the texts with the mark inside every control token that they quote, except for those in `but`."""
        whole = "".join(_strings(texts))
        mark = next((mark for mark in _MARKS if mark not in whole), None)
        if mark is None:
            raise ValueError("its text holds all of U+FDD0 to U+FDEF, which are not characters; take one of them out")

        def broken(found: re.Match[str]) -> str:
            return found[0] if found[0] in but else found[0][0] + mark + found[0][1:]

        return mark, _changed(texts, lambda text: self._find_or_begun.sub(broken, text))

    def _encode(self, text: str, mark: str) -> list[int]:
        ids: list[int] = []
        start = 0
        for found in self._find.finditer(text):
            ids += [*self._plainly(text[start : found.start()], mark), self._control[found[0]]]
            start = found.end()
        return ids + self._plainly(text[start:], mark)

    def _plainly(self, text: str, mark: str) -> list[int]:
        return self._plain.encode(text.replace(mark, ""), add_special_tokens=False).ids


def _check_template(template: str, variables: Mapping[str, Any]) -> None:
    used = _get_template_variables(template) - {"messages", "add_generation_prompt"}
    for name in variables:
        if name not in used:
            these = f"it uses {', '.join(sorted(used))}" if used else "it uses none"
            raise ValueError(
                f"template_kwargs.{name}: a run file can't set this variable of the chat template; {these}; correct the name or "
                "remove the setting"
            )


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every text in it changed: in messages, all but roles, types and images."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: each if key in _NOT_TEXT else _changed(each, change) for key, each in value.items()}
    return [_changed(each, change) for each in value] if isinstance(value, list | tuple) else value


def _strings(value: Any) -> list[str]:
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    _changed(value, keep)
    return found
