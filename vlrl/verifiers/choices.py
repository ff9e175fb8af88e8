"""Reads multiple-choice and yes-or-no answers.

The answer is the last \\boxed{...} after the reasoning. Without a box it is the single `<answer>...</answer>`, and without that,
all of the text after the reasoning. The whole answer must match: one that names two options, hedges or argues picks no option.
Bold marks, quotation marks, dollar signs, \\text{...}, one final full stop and a lead-in such as "The answer is" are ignored.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER, after_reasoning, last_boxed, same_text

_TAGGED = re.compile(r"\s*<answer>((?:(?!</?answer>).)*)</answer>\s*", re.DOTALL)
_MARKUP = re.compile(r'\\(?:text(?:bf|it|rm)?|math(?:bf|rm))\s*\{|[*{}$"“”`]')
_LEAD_IN = re.compile(
    r"(?:[Tt]he |[Mm]y )?(?:[Cc]orrect |[Ff]inal |[Rr]ight |[Bb]est )?(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?: is)?:? ",
)
_LETTER = re.compile(r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z]))")
_LETTERED = re.compile(r"(?:\(([A-Za-z])\)[.:]?|([A-Za-z])[.:)]) ?(.+)")  # (C) five; C. five; C) five

_YES_NO = {"yes": True, "true": True, "no": False, "false": False}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def choice(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that `answer` picks; None if it picks none or several.

    The answer may be the letter (either case, with or without brackets), the full text of one option (by `same_text`), or both if
    they agree. A single letter is read as an option's letter first, then as an option's text.

    >>> shapes = ["hexagon", "triangle", "square", "pentagon"]
    >>> choice("The answer is **(D)**.", shapes), choice("Pentagon", shapes), choice("D. pentagon", shapes)
    ('D', 'D', 'D')
    >>> choice("A or D", shapes), choice("Not D", shapes), choice("E", shapes), choice("D. square", shapes)
    (None, None, None, None)
    """
    texts = dict(zip(ascii_uppercase, options, strict=False))
    words = _answer_text(answer)
    words = words[lead_in.end() :] if (lead_in := _LEAD_IN.match(words)) else words
    if letter := _LETTER.fullmatch(words.removesuffix(".")):
        picked = letter[letter.lastindex or 0].upper()
        return picked if picked in texts else None
    if lettered := _LETTERED.fullmatch(words):
        picked = (lettered[1] or lettered[2]).upper()
        if picked in texts and same_text(lettered[3], _answer_text(texts[picked])):
            return picked
    named = [letter for letter, text in texts.items() if words and same_text(words, _answer_text(text))]
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
    """Reads the last word of the answer: True for yes or true, False for no or false, None for any other word.

    Also None if an earlier word says the opposite, or if the word before the last one is a negation ("not", "isn't").

    >>> yes_no("So it is **true**."), yes_no("No"), yes_no("Yes and no"), yes_no("It is not true"), yes_no("Yes, it moves")
    (True, False, None, None, None)
    """
    *before, last = [word.casefold() for word in _WORD.findall(_answer_text(answer))] or [""]
    value = _YES_NO.get(last)
    contradicted = any(_YES_NO.get(word, value) != value for word in before)
    negated = bool(before) and (before[-1] == "not" or before[-1].endswith(("n't", "n’t")))
    return None if contradicted or negated else value


def _answer_text(answer: str) -> str:
    """The answer without markup, its words separated by single spaces; empty if the answer is too long."""
    text = after_reasoning(answer)
    if "\\boxed" in text:
        text = last_boxed(answer) or ""
    elif tagged := _TAGGED.fullmatch(text):
        text = tagged[1]
    return " ".join(_MARKUP.sub("", text).split()) if len(text) <= MAX_ANSWER else ""
