"""Compares short answers with some tolerance: counts, OCR text and chart values. Also checks a response's language.

All functions except `same_language` take the answer itself, such as the content of the box, not the whole response.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER, quantity, same_text
from vlrl.verifiers.dress import bare_value, undress

MAX_GOLD = 512

_COUNT = re.compile(r"\+?([1-9][0-9]{0,2}(?:,[0-9]{3}){1,2}|[0-9]{1,9})(?:\.0{1,9})?")
_NUMERALS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMERALS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]

_YEAR = re.compile(r"(?:1[5-9]|20)[0-9]{2}")
_IN_YEAR = re.compile(r"\A(?:in )?(?:the )?(?:year )?(?=[0-9])", re.IGNORECASE)
_MISSING = re.compile(r"[+-]?(?:nan|inf|infinity|)", re.IGNORECASE)
_MAX_CHARACTERS = 20_000
_MIN_WORDS = 8
_MAJORITY = 2 / 3
_NOT_PROSE = re.compile(
    r"""(?sx) ```.*?(?:```|\Z) | `[^`\n]*`                                                      # code
    | \$\$.*?(?:\$\$|\Z) | \$[^$\n]*\$ | \\\[.*?(?:\\\]|\Z) | \\\(.*?(?:\\\)|\Z) | \\[a-zA-Z]+  # LaTeX
    | https?://\S+ | </?\w+> """
)
_UNITS = {
    "Latin": r"[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ\u0300-\u036f]{2,}",  # a single letter is usually a variable
    "Greek": r"[Ͱ-Ͽἀ-῿]{2,}",
    "Cyrillic": r"[\u0400-\u052f]+",
    "Hebrew": r"[\u05d0-\u05ea]+",
    "Arabic": r"[\u0620-\u065f\u066e-\u06ef\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc]+",
    "Devanagari": r"[\u0900-\u0963\u0971-\u097f]+",
    "Thai": r"[\u0e01-\u0e4e]{1,5}",  # written without spaces
    "Korean": r"[\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3]+",
    "Japanese": r"[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9d]",  # kana
    "Chinese": r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]",
}
_UNIT_OF = re.compile("|".join(f"(?P<{script}>{pattern})" for script, pattern in _UNITS.items()))


def count(answer: str) -> int | None:
    """Reads `answer` as a count: ASCII digits, plain or in complete groups of thousands, or an English word from zero to twenty.

    The thing counted may follow, and other dress may be around it (see dress.py): 7 cells, N = 7. 7.0 is 7. Returns None for
    anything else: a minus sign, a fraction, a range, two numbers, a sentence such as "There are 7 cells", more than nine digits.

    >>> count("1,024"), count("Seven cells."), count("7.0"), count("6 or 7"), count("-7"), count("7e0"), count("There are 7")
    (1024, 7, 7, None, None, None, None)
    """
    if len(answer) > MAX_ANSWER:
        return None
    first, _, others = undress(answer).partition(" ")
    if first.lower() in _NUMERALS:
        answer = f"{_NUMERALS.index(first.lower())} {others}"
    digits = _COUNT.fullmatch(bare_value(answer))
    return int(digits[1].replace(",", "")) if digits else None


def anls(answer: str, golds: Sequence[str]) -> float:
    """Average Normalised Levenshtein Similarity with the nearest reference (https://arxiv.org/abs/1907.00490).

    NL is the number of edits divided by the longer length. The score is 1 - NL if NL is below 0.5, otherwise 0. Case, white space
    and Unicode compatibility forms are ignored. The answer counts as it is and without marks and fonts (see `undress` of
    dress.py), whichever is nearer. An answer of more than 4,096 characters scores 0. Raises BadRow if the row has no
    references, or if one is empty or longer than 512 characters.

    >>> anls("hallo", ["hello"]), anls(" Shell  ISNI", ["Shell Isni", "x"]), anls("00", ["O0"])
    (0.8, 1.0, 0.0)
    """
    expected = [_plain(gold) for gold in golds]
    if not expected or not all(0 < len(gold) <= MAX_GOLD for gold in expected):
        raise BadRow(f"anls needs references of 1 to {MAX_GOLD} characters, got {str(golds)[:100]}")
    if len(answer) > MAX_ANSWER:
        return 0.0
    readings = {_plain(answer), _plain(undress(answer))}
    return max(_similarity(given, gold) for given in readings for gold in expected)


def relaxed_number(answer: str, gold: str, *, tolerance: float = 0.05, exact: bool = False) -> bool:
    """Whether a value read from a chart is within the relative `tolerance` of the reference, both ends included.

    The answer is read by `answers.quantity`, so a unit after it is ignored, and 3.5 million is 3,500,000. 5% is 0.05, so it is
    not 5. There is no tolerance for 0, for a year (four plain digits, 1500 to 2099), or if `exact` is set, as for counts, which
    may also be English words (see `count`). A reference that is not a bare number is compared as text. Raises BadRow if it is
    empty, NaN or infinite.

    >>> relaxed_number("$1,290", "1234"), relaxed_number("3.5 million", "3400000"), relaxed_number("5%", "0.05")
    (True, True, True)
    >>> relaxed_number("2014", "2015"), relaxed_number("10 or 20", "10"), relaxed_number("5", "5%")
    (False, False, False)
    """
    if _MISSING.fullmatch(gold.strip()):
        raise BadRow(f"the reference {gold!r} is empty or not finite; it must be a number or text")
    expected = quantity(gold, is_bare=True)
    if expected is None:
        return same_text(answer, gold)
    is_year = bool(_YEAR.fullmatch(gold.strip()))
    value = quantity(_IN_YEAR.sub("", undress(answer)) if is_year else answer)
    if value is None:
        return exact and count(answer) == expected
    if exact or is_year:
        return value == expected
    return abs(value - expected) <= Fraction(str(tolerance)) * abs(expected)


def same_language(response: str, question: str) -> bool:
    """Whether the response is mostly in the question's script. True if a text is too short, or the question mixes scripts.

    Counts words of two or more letters, Chinese characters and kana in the first 20,000 characters; skips code, LaTeX, links,
    tags and numbers. A text is in a script if at least two thirds of its counted units are. A text with fewer than 8 units is too
    short. Chinese characters count as Japanese if at least a tenth of the Chinese characters and kana are kana. Languages with
    the same script, such as French and English, are not distinguished.

    >>> question = "How many red blood cells are there in this image?"
    >>> same_language("这张图片里一共有七个红细胞。", question), same_language("I see seven of them, so \\\\boxed{7}.", question)
    (False, True)
    """
    asked, given = _scripts(question), _scripts(response)
    if min(asked.total(), given.total()) < _MIN_WORDS:
        return True
    script, num_asked = asked.most_common(1)[0]
    return num_asked < _MAJORITY * asked.total() or given[script] >= _MAJORITY * given.total()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    if 2 * min(len(one), len(other)) <= longest:
        return 0.0  # the lengths alone need edits to half of the longer text
    edits = _edits(one, other)
    return 1 - edits / longest if 2 * edits < longest else 0.0


def _edits(one: str, other: str) -> int:
    """The Levenshtein distance: the fewest characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for line, letter in enumerate(one, start=1):
        diagonal, row[0] = row[0], line
        for column, wanted in enumerate(other, start=1):
            cost = min(row[column] + 1, row[column - 1] + 1, diagonal + (letter != wanted))
            diagonal, row[column] = row[column], cost
    return row[-1]


def _scripts(text: str) -> Counter[str]:
    """The number of words, characters or kana in each script."""
    prose = _NOT_PROSE.sub(" ", text[:_MAX_CHARACTERS])
    counts = Counter(unit.lastgroup or "" for unit in _UNIT_OF.finditer(prose))
    kana, han = counts.pop("Japanese", 0), counts.pop("Chinese", 0)
    if kana + han:
        counts["Japanese" if 10 * kana >= kana + han else "Chinese"] = kana + han
    return counts
