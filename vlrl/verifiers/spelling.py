r"""Brings LaTeX and plain notation to one spelling before it is compared: sizes, spaces and fonts go, \ge and ≥ become \geq.

What is left has each font as \text{...}, and that only around words: \mathbf{13} is 13, and \text{5 cm} is 5\text{ cm}.
"""

import re

from vlrl.verifiers.answers import MAX_ANSWER

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "θ": r"\theta ", "∞": r"\infty "}
    | {"≤": r"\leq ", "⩽": r"\leq ", "≥": r"\geq ", "⩾": r"\geq ", "≠": r"\neq ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "}
    | {"±": r"\pm ", "°": r"^\circ ", "²": "^2", "³": "^3", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "∅": r"\emptyset "}
    | {"½": r"\frac{1}{2}", "€": r"\text{euro}", "£": r"\text{pound}", "\u00a0": " ", "\u2009": " ", "\u202f": " "}
)
_SIZE = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|(?:display|text|script)style|(?:no)?limits)(?![A-Za-z])")
_INSIDE = r"[^{}]*"
for _ in range(4):  # \boxed{\frac{\sqrt{3}}{2}}
    _INSIDE = rf"(?:\\[{{}}]|[^{{}}\\]|\\(?![{{}}])|\{{{_INSIDE}\}})*"
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|[mhf]box|boxed|math(?:rm|bf|it|sf|tt|normal)|operatorname|boldsymbol|bm|pmb)(?![A-Za-z])"
    rf"\s*\{{({_INSIDE})\}}"
)
_FUNCTION = re.compile(r"\s*((?:arc)?(?:sin|cos|tan|cot|sec|csc)|sinh|cosh|tanh|ln|log|exp)\s*")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_MATHEMATICS = re.compile(r"\s*(?:[-+.\d\\(\[$|]|[A-Za-z]\s*[-+=<>])")
_COUNTED = re.compile(r"(\s*[-+]?(?:\\?\$)?\d[\d.,/]*(?: ?\^ ?\\circ)?)\s*([A-Za-z][A-Za-z ./^\d]*)")
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = re.compile(rf"(?<=[\d}}]) ?(?:(\\text\{{) ?)?({'|'.join(_SCALES)})(?![A-Za-z])(?(1) ?(\}})?)")

_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot) ?(?:\{ ?(\d+) ?\}|(\d))")
_BUILDER = re.compile(r"\\\{ ?([a-z])(?: ?\\in ?\\mathbb\{R\})? ?(?:\\mid|\||:) ?(?=.*[<>\\])(.*?) ?\\\}")
_ALL_NUMBERS = re.compile(
    r"(?:\\text\{ ?)?(?:[Tt]he set of )?[Aa]ll (?:(real|rational|complex)s?(?: numbers)?|(integer)s)(?: ?\})?", re.ASCII
)
_NUMBER_SETS = {"real": "R", "rational": "Q", "complex": "C", "integer": "Z"}

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:Bbb|mathds|mathbb) ?\{? ?([A-Z]) ?\}?", r"\\mathbb{\1}"),
        (r"(?<=\)) ?(?:\\text\{ ?and ?\}|and) ?(?=\()", ", "),
        (r"√ ?(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\{(\d+)\}/\{(\d+)\}", r"\1/\2"),
        (r"√", r"\\sqrt "),
        (r"\\bigcup(?![A-Za-z])", r"\\cup "),
        (r"(?<=\\\\)\[\d+(?:pt|em|ex|mm)\]", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{([^{}\\]*)\\over(?![A-Za-z])([^{}\\]*)\}", r"\\frac{\1}{\2}"),
        (r"\\leq?(?:slant|q)?(?![A-Za-z])|<=", r"\\leq "),
        (r"\\geq?(?:slant|q)?(?![A-Za-z])|>=", r"\\geq "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\neq?(?![A-Za-z])", r"\\neq "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\[lr]vert(?![A-Za-z])", "|"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"(?:\^ ?)?\{? ?\\(?:text)?degree(?![A-Za-z]) ?\}?", r"^\\circ "),
        (
            r"(\\(?:sin|cos|tan|cot|sec|csc)(?: ?\^ ?\{? ?-?\d ?\}?)? ?[({]?) ?(\d+(?:\.\d+)?) ?\^ ?(?:\\circ|\{ ?\\circ ?\})",
            r"\1\\frac{\2\\pi}{180}",
        ),
        (r"\\ast(?![A-Za-z])", "*"),
        (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r",\\!\s*|\{,\}|(?<=\d)(?:\\[,;:! ]|~)(?=\d{3}(?!\d))", ","),
        (r"(?<!\\)\\(?:[,;:! ]|(?:thin|en)space(?![A-Za-z]))|\\q?quad(?![A-Za-z])|~", " "),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![\\A-Za-z])infinity(?![A-Za-z])", r"\\infty "),
        (r"(?<![\\A-Za-z])((?:arc)?(?:sin|cos|tan)|cot|sec|csc|ln|log)(?= ?[(\\\d]| [A-Za-z](?![A-Za-z]))", r"\\\1 "),
        (r"(?<=[)\]}]) ?U ?(?=[(\[\\])", r" \\cup "),
        (r"[({]([0-9A-F]+)[)}](?=_)", r"\1"),
        (r"\s+", " "),
    ]
]


def respelled(text: str) -> str:
    r"""The text in one spelling, without surrounding dollar signs or brackets of display; empty if it is too long.

    >>> respelled(r"$\dfrac{\mathbf{1}}{2} \geqslant x.$"), respelled(r"\text{5 cm}"), respelled(r"3\text{ million}")
    ('\\frac{{1}}{2} \\geq x', '5\\text{ cm}', '3 \\times 10^{6}')
    >>> respelled(r"\text{all real numbers}")
    '\\mathbb{R}'
    """
    if len(text) > MAX_ANSWER:
        return ""
    text = _FONT.sub(_without_font, _SIZE.sub("", text.translate(_CHARACTERS)))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _REPEATING.sub(_as_fraction, _SCALE.sub(_as_power, text)).strip().rstrip(".,;").rstrip()
    if text.startswith("$") and text.endswith("$"):
        text = text.strip("$").strip().removesuffix(".").rstrip()
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("{", "}")):
        if text.startswith(opening) and text.endswith(closing) and _is_one_group(text, opening):
            text = text.removeprefix(opening).removesuffix(closing).strip()
    if every := _ALL_NUMBERS.fullmatch(text):
        return rf"\mathbb{{{_NUMBER_SETS[every[1] or every[2]]}}}"
    builder = _BUILDER.fullmatch(text)
    return builder[2] if builder else text


def _without_font(font: re.Match[str]) -> str:
    inside = _FONT.sub(_without_font, font[1])
    if function := _FUNCTION.fullmatch(inside):
        return rf"\{function[1]} "
    if len(inside) == 1 and inside.isalpha():
        return f" {inside}"
    if not _WORD.search(inside):
        return f"{{{inside}}}" if _MATHEMATICS.match(inside) else rf"\text{{{inside}}}"
    counted = _COUNTED.fullmatch(inside)
    return rf"{counted[1]}\text{{ {counted[2]}}}" if counted else rf"\text{{{inside}}}"


def _as_power(scale: re.Match[str]) -> str:
    rest = r"\text{" if scale[1] and not scale[3] else ""  # \text{ million dollars}
    return rf" \times 10^{{{_SCALES[scale[2]]}}}{rest}"


def _as_fraction(repeating: re.Match[str]) -> str:
    r"""0.1\overline{6} as \frac{15}{90}."""
    whole, fixed, again = repeating[1] or "0", repeating[2], repeating[3] or repeating[4]
    top = int(whole + fixed + again) - int(whole + fixed)
    return rf"\frac{{{top}}}{{{(10 ** len(again) - 1) * 10 ** len(fixed)}}}"


def _is_one_group(text: str, opening: str) -> bool:
    """Whether the first brace, if the text begins with one, closes at the end."""
    if opening != "{":
        return True
    level = 0
    for place, mark in enumerate(re.sub(r"\\[{}]", "..", text)):
        level += {"{": 1, "}": -1}.get(mark, 0)
        if level == 0:
            return place == len(text) - 1
    return False
