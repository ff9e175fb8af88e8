"""Reads multiple-choice and yes-or-no answers.

The answer is the last \\boxed{...} after the reasoning. Without a box it is the single `<answer>...</answer>`, and without that,
all of the text after the reasoning. The whole answer must match: one that names two options, hedges or argues picks no option.
What is only dress around it (see dress.py) is ignored: marks, fonts, one final full stop, a lead-in such as "The answer is".
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from vlrl.common.responses import after_reasoning
from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER, last_boxed, number, plain_words
from vlrl.verifiers.dress import undress, without_lead_in

_TAGGED = re.compile(r"\s*<answer>((?:(?!</?answer>).)*)</answer>\s*", re.DOTALL)
_LETTER = re.compile(r"(?:\( ?([A-Za-z]) ?\)|\[ ?([A-Za-z]) ?\]|([A-Za-z]) ?\)?)(?: ?[.:])?")
_LETTERED = re.compile(  # (C) five; C. five; C) five; C - five
    r"(?:[(\[] ?(?P<wrapped>[A-Za-z]) ?[)\]](?: ?[.:,]| [-=](?= ))?|(?P<bare>[A-Za-z])(?P<mark> ?[.:)]|,| ?[-=](?= )|(?= )))"
    r" ?(?P<text>\S.*)"
)
_AFTER_TEXT = re.compile(r"(?P<text>.+) \( ?(?P<letter>[A-Za-z]) ?\)")  # five (C)

_YES_NO = {"yes": True, "true": True, "no": False, "false": False}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_BEFORE_YES_NO = frozenset("the this that it is so thus hence therefore my final correct answer statement claim caption".split())  # noqa: SIM905


def choice(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that `answer` picks; None if it picks none or several.

    The answer may be the letter (either case, with or without brackets), the full text of one option (by `same_text`, or its
    exact value if it is a number), or both if they agree. A single letter is read as an option's letter first, then as an
    option's text.

    >>> shapes = ["hexagon", "triangle", "square", "pentagon"]
    >>> choice("The answer is **(D)**.", shapes), choice("Pentagon", shapes), choice("D - pentagon", shapes), choice("D)", shapes)
    ('D', 'D', 'D', 'D')
    >>> choice("A or D", shapes), choice("Not D", shapes), choice("E", shapes), choice("D. square", shapes)
    (None, None, None, None)
    """
    texts = dict(zip(ascii_uppercase, map(plain_words, options), strict=False))
    words = without_lead_in(undress(_answer_text(answer)))
    if letter := _LETTER.fullmatch(words):
        picked = letter[letter.lastindex or 0].upper()
        return picked if picked in texts else None
    plain = plain_words(words)
    named = [letter for letter, text in texts.items() if plain and plain == text]
    if not named and (value := number(words)) is not None:
        named = [letter for letter, text in texts.items() if number(text) == value]
    if both := _letter_and_text(words):
        picked, text = both
        readings = map(plain_words, (text, text.removeprefix("(").removesuffix(")")))
        if picked in texts and texts[picked] in readings and set(named) <= {picked}:
            return picked
    return named[0] if len(named) == 1 else None


def same_choice(answer: str, gold: str, options: Sequence[str]) -> bool:
    """Whether the answer picks the reference option, which is given by its letter or its text.

    Raises BadRow if the reference is not one of the options, or if the row has fewer than 2 or more than 26 options.

    >>> same_choice("(b)", "B", ["4", "5"]), same_choice("5", "B", ["4", "5"]), same_choice("4 or 5", "B", ["4", "5"])
    (True, True, False)
    """
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise BadRow(f"the row has {len(options)} options; it needs 2 to {len(ascii_uppercase)}")
    expected = choice(gold, options)
    if expected is None:
        raise BadRow(f"the reference answer {gold!r} is not one of the options {list(options)}")
    return choice(answer, options) == expected


def yes_no(answer: str) -> bool | None:
    """True if the answer is yes or true, False if it is no or false, None if it is both or anything else.

    Words such as "the answer is" may be before it. Any other word could deny or doubt it, so it makes the answer None.

    >>> yes_no("So it is **true**."), yes_no("No"), yes_no("Yes and no"), yes_no("It is not true"), yes_no("Yes, it moves")
    (True, False, None, None, None)
    """
    text = _answer_text(answer)
    words = [word.casefold() for word in _WORD.findall(undress(text))]
    values = {_YES_NO[word] for word in words if word in _YES_NO}
    is_plain = words[-1:] and words[-1] in _YES_NO and all(word in _YES_NO or word in _BEFORE_YES_NO for word in words)
    return values.pop() if is_plain and len(values) == 1 and not undress(text).endswith("?") else None


def _letter_and_text(words: str) -> tuple[str, str] | None:
    """The letter and the text of an answer such as (C) five. A text of one letter needs brackets, a colon or a full stop, because
    "A - B" names two options.
    """
    if after := _AFTER_TEXT.fullmatch(words):
        return after["letter"].upper(), after["text"]
    lettered = _LETTERED.fullmatch(words)
    if lettered is None:
        return None
    names_two = len(lettered["text"]) == 1 and lettered["text"].isalpha() and lettered["mark"] in ("", ",", "-", " -", "=", " =")
    return None if names_two else ((lettered["wrapped"] or lettered["bare"]).upper(), lettered["text"])


def _answer_text(answer: str) -> str:
    """The part of the response that is the answer, with its marks; empty if it is too long."""
    text = after_reasoning(answer)
    if "\\boxed" in text:
        text = last_boxed(answer) or ""
    elif tagged := _TAGGED.fullmatch(text):
        text = tagged[1]
    return text if len(text) <= MAX_ANSWER else ""
