"""Choices: which of the lettered options an answer picks, and whether it says yes or no.

The answer is the last \\boxed{...} after the reasoning, or else the one `<answer>...</answer>`, or else all of the text after
the reasoning. It is read as a whole: what names two options, hedges or argues picks none. Bold marks, quotation marks,
dollars, \\text{...}, one full stop and a lead-in such as "The answer is" do not count.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER, after_reasoning, last_boxed, same_text

_TAGGED = re.compile(r"\s*<answer>((?:(?!</?answer>).)*)</answer>\s*", re.DOTALL)
_DRESS = re.compile(r'\\(?:text(?:bf|it|rm)?|math(?:bf|rm))\s*\{|[*{}$"“”`]')
_LEAD_IN = re.compile(
    r"(?:[Tt]he |[Mm]y )?(?:[Cc]orrect |[Ff]inal |[Rr]ight |[Bb]est )?(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?: is)?:? ",
)
_LETTER = re.compile(r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z]))")
_LETTERED = re.compile(r"(?:\(([A-Za-z])\)[.:]?|([A-Za-z])[.:)]) ?(.+)")  # (C) five; C. five; C) five

_VERDICTS = {"yes": True, "true": True, "no": False, "false": False}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def choice(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that `answer` picks; None where it picks none, or more than one.

    Read are the letter in either case, bare or in brackets; the text of one option, as a whole (`same_text`); and both, where
    they agree. A letter is read as a letter before it is read as a text.

    >>> shapes = ["hexagon", "triangle", "square", "pentagon"]
    >>> choice("The answer is **(D)**.", shapes), choice("Pentagon", shapes), choice("D. pentagon", shapes)
    ('D', 'D', 'D')
    >>> choice("A or D", shapes), choice("Not D", shapes), choice("E", shapes), choice("D. square", shapes)
    (None, None, None, None)
    """
    texts = dict(zip(ascii_uppercase, options, strict=False))
    words = _undressed(answer)
    words = words[lead_in.end() :] if (lead_in := _LEAD_IN.match(words)) else words
    if letter := _LETTER.fullmatch(words.removesuffix(".")):
        picked = letter[letter.lastindex or 0].upper()
        return picked if picked in texts else None
    if lettered := _LETTERED.fullmatch(words):
        picked = (lettered[1] or lettered[2]).upper()
        if picked in texts and same_text(lettered[3], _undressed(texts[picked])):
            return picked
    named = [letter for letter, text in texts.items() if words and same_text(words, _undressed(text))]
    return named[0] if len(named) == 1 else None


def same_choice(answer: str, gold: str, options: Sequence[str]) -> bool:
    """Whether the answer picks the gold option, which is given by its letter or by its text.

    BadRow where the gold is not one of the options, or where there are fewer than 2 or more than 26 of them.

    >>> same_choice("(b)", "B", ["4", "5"]), same_choice("5", "B", ["4", "5"]), same_choice("4 or 5", "B", ["4", "5"])
    (True, True, False)
    """
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise BadRow(f"a choice has 2 to {len(ascii_uppercase)} options, this one has {len(options)}")
    expected = choice(gold, options)
    if expected is None:
        raise BadRow(f"the reference answer {gold!r} is not one of the options {list(options)}")
    return choice(answer, options) == expected


def yes_no(answer: str) -> bool | None:
    """What the last word of the answer says: True for yes or true, False for no or false, None for any other.

    None also where a word before it says the contrary, and where it follows on "not".

    >>> yes_no("So it is **true**."), yes_no("No"), yes_no("Yes and no"), yes_no("It is not true"), yes_no("Yes, it moves")
    (True, False, None, None, None)
    """
    *before, last = [word.casefold() for word in _WORD.findall(_undressed(answer))] or [""]
    verdict = _VERDICTS.get(last)
    contradicted = any(_VERDICTS.get(word, verdict) != verdict for word in before)
    negated = bool(before) and (before[-1] == "not" or before[-1].endswith(("n't", "n’t")))
    return None if contradicted or negated else verdict


def _undressed(answer: str) -> str:
    """The words of the answer proper, with single spaces between them; nothing of one that is too long."""
    text = after_reasoning(answer)
    if "\\boxed" in text:
        text = last_boxed(answer) or ""
    elif tagged := _TAGGED.fullmatch(text):
        text = tagged[1]
    return " ".join(_DRESS.sub("", text).split()) if len(text) <= MAX_ANSWER else ""
