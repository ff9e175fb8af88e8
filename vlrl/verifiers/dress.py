r"""Removes what is only dress around an answer: fonts, marks, brackets, a lead-in, a name with an equals sign, a unit.

Everything here turns text into text, in time linear in the text; nothing is evaluated. What is removed never holds a second
answer: a text that names two values, hedges or denies keeps the words that do so, and its reader then refuses it.

what             dress, removed                                           not dress, kept
marks            $13$, \(13\), **13**, `13`, "13", {13}, \text{13},       \{13\}, 13?, 13!, ~13
                 \mathbf{13}, \left(, \displaystyle, \,, 13., 13~cm
lead-in          Answer: 13, The final answer is 13, Option D             I think 13, There are 13, about 13, > 13
equation         x = 13, m+n = 293, 100m+n = 293, 256+37 = 293,           2x = 26, x+1 = 13, 12 = 13, x != 13,
                 m+n = 256+37 = 293, = 13, 13 = x                         x = 12, y = 13
round brackets   (13)                                                     [13], (12, 13)
after a number   13 apples, 13 cm^2, 13 m/s, 13^\circ                     13 or 14, 13 dozen, 13 squared, 13x, 13_8

Spelling: a minus sign of Unicode is a minus, \% is %, \dfrac is \frac, and thousands are separated by commas.
"""

import re

_CHARACTERS = str.maketrans(
    dict.fromkeys("−‐‑–—﹣－", "-")
    | dict.fromkeys("\u00a0\u2007\u2009\u202f", r"\,")
    | {"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "×": r"\times ", "·": r"\cdot "}
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_REWRITES = [
    (re.compile(r",\\!\s*(?=\d)|(?<=\d)(?:\{,\}|\\[,;:! ]|~)(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\(?:[,;:!/\s]|\Z)|(?<=[\w.)}])~|(?<=\{)~(?=[A-Za-z])|\\(?:q?quad|enspace|thinspace)(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])\.?|\\[bB]igg?[lrm]?(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:(?:display|text|script)style|bf(?:series)?|rm|it|large|Large|LARGE|huge|Huge)(?![A-Za-z])"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac ?(\d) ?(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r" ?\^ ?(?:\\circ|\{ ?\\circ ?\})(?![A-Za-z])|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"(?<![\w*])\*\*([^*]*)\*\*(?![\w*])"), r"\1"),
]
_FONT_OR_BRACE = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|normal|up)?|math(?:bf|it|rm|sf|tt|normal|bb)|mbox|hbox|fbox|boxed|bm|boldsymbol|operatorname"
    r"|underline|(?:text)?color\s*\{[A-Za-z]*\})\s*\{|\\.|[{}]",
    re.DOTALL,
)
_WRAPPED = re.compile(
    r"\$\$((?:\\.|[^$\\])*)\$\$|\$((?:\\.|[^$\\])*)\$|\\\(((?:(?!\\\)).)*)\\\)|\\\[((?:(?!\\\]).)*)\\\]"
    r"|\*\*([^*]*)\*\*|\*([^*]*)\*|__([^_]*)__|_([^_]*)_|```([^`]*)```|`([^`]*)`|\"([^\"]*)\"|'([^']*)'",
    re.DOTALL,
)
_BOUNDARY = "\ue000"  # of a font; a character for private use
_BOUNDARY_IN_WORD = re.compile(rf"(?<=\w){_BOUNDARY}+(?=\w)")
_ESCAPED = re.compile(r"\\([$%&#_])")
_BLANK = re.compile(r"(?:\s|\\[,;:!/ ]|~|\\q?quad(?![A-Za-z])|[{}$*`]|\\(?:text|math)[a-z]{0,6}\s*\{)*")
_MOST_LAYERS = 8

_LEAD_IN = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?(?:(?:the|my) )?(?:(?:correct|final|right|best) )?(?:answer|option|choice)"
    r"(?: is)?(?: ?: ?| )(?:option |choice )?",
    re.IGNORECASE,
)

_MOST_SIDES = 6
_DIGIT = re.compile("[0-9]")
_NUMERAL = r"\d++(?:,\d{3})*+(?:\.\d++)?+"  # never split again, or a long one would be read in every way
_ONE_NUMERAL = re.compile(rf"[-+]? ?{_NUMERAL}")
_ARITHMETIC = re.compile(rf"(?:{_NUMERAL}|\\(?:times|cdot|div|frac|sqrt|binom)(?![A-Za-z])|[-+*/^(){{}} ])+")
_NAMES = re.compile(
    r"(?:\\(?:angle|triangle|overline|alpha|beta|gamma|theta|lambda|mu|phi|pi|sigma|omega|Delta)|[\w+\-*/^(){}|' ])+", re.A
)
_ARGUMENT = re.compile(r"_(?:\w|\{\w*\})|(?<=[A-Za-z])\([\w, ]*\)", re.ASCII)
_NAME = re.compile(r"[A-Za-z]+")
_ADJACENT_NAMES = re.compile(r"(?<![\\A-Za-z])[A-Za-z]+ +[A-Za-z]")

_POWER = r" ?\^ ?(?:[23]|\{[23]\})"
_WORD = rf"[A-Za-z]{{1,20}}\.?(?:{_POWER})?"
_THING = re.compile(
    rf"(?<=[\d.)}}$%])(?:(?P<degree> ?°(?: ?[CF])?)|(?P<gap> ?)(?P<words>{_WORD}(?:(?: | ?/ ?){_WORD}){{0,3}}))\Z", re.A
)
_LONGEST_THING = 80
_SHORT_UNITS = frozenset("m g s h l L cm mm km kg mg ml mL ft in yd mi lb oz hr Hz sq cu of".split())  # noqa: SIM905
_ATTACHED_UNITS = frozenset("cm mm km kg mg ml mL ft in yd mi lb lbs oz hr hrs min sec mph kmh Hz".split())  # noqa: SIM905
_NOT_THINGS = frozenset(  # words after a number that change it, add another one, doubt it or deny it
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety dozen dozens score gross pair pairs couple
    couples double triple half halves third thirds quarter quarters fourths fifth fifths sixth sixths seventh sevenths
    eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths millionth millionths squared
    cubed factorial plus minus multiplied divided over mod modulo base point power root log sin cos tan sqrt pi
    percentage basis hundreds thousands millions billions trillions and or nor not but to than versus either neither
    except unless instead else if maybe perhaps probably possibly likely unlikely about approximately approx roughly
    around nearly almost circa ish estimate estimated rounded something minimum maximum max least most tops guess
    think believe unsure unknown wrong incorrect false negative below under short deficit loss are was were you never
    none""".split()  # noqa: SIM905
)
_SCALE_WORDS = frozenset("percent hundred thousand million billion trillion k K M B".split())  # noqa: SIM905


def undress(text: str) -> str:
    r"""The text without marks: fonts, sizes, LaTeX spaces, marks or braces around all of it, and one final full stop.

    White space is collapsed, and a change of font inside a word is a space. Brackets, words and everything inside stay.

    >>> undress(r"$\textbf{(B)}\ 5$"), undress(r"**\text{Blue}.**"), undress(r"\left(13\right)\,"), undress("{{-13}}")
    ('(B) 5', 'Blue', '(13)', '-13')
    >>> undress(r"2**3**4"), undress(r"\{1\}"), undress(r"\frac{1}{12}"), undress(r"13\text{ or }14")
    ('2**3**4', '\\{1\\}', '\\frac{1}{12}', '13 or 14')
    """
    text = text.translate(_CHARACTERS)
    text = _SUPERSCRIPT.sub(lambda power: "^{" + power[0].translate(_SUPERSCRIPTS) + "}", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = " ".join(_BOUNDARY_IN_WORD.sub(" ", _without_fonts(text)).replace(_BOUNDARY, "").split())
    has_stop = True
    for _ in range(_MOST_LAYERS):
        outer = text
        text = text.strip()
        if has_stop and text.endswith("."):
            has_stop, text = False, text[:-1].rstrip()
        if wrapped := _WRAPPED.fullmatch(text):
            text = wrapped[wrapped.lastindex or 0]
        elif _closes_at_end(text, "{", "}"):
            text = text[1:-1]
        if text == outer:
            break
    return _ESCAPED.sub(r"\1", text.strip())


def is_blank(text: str) -> bool:
    r"""Whether the text holds nothing but spaces, empty braces and empty marks.

    >>> [is_blank(text) for text in ("", r" \, ", "{}", r"\text{ }", "$$", "?", r"\{\}")]
    [True, True, True, True, True, False, False]
    """
    return bool(_BLANK.fullmatch(text))


def without_lead_in(text: str) -> str:
    """An undressed text without "The answer is" or "Option" before it.

    >>> without_lead_in("The correct answer is option D"), without_lead_in("Final answer: 13"), without_lead_in("answers 13")
    ('D', '13', 'answers 13')
    """
    lead_in = _LEAD_IN.match(text)
    return text[lead_in.end() :] if lead_in else text


def bare_value(text: str) -> str:
    r"""The value's own text, such as "-3.5" or "3.5 million": undressed, without lead-in, equation, round brackets and unit.

    A text that is no single value comes back with whatever makes it so.

    >>> bare_value("m+n = 256+37 = 293"), bare_value(r"(13)\text{ cm}^2"), bare_value("Answer: 3.5 million people")
    ('293', '13', '3.5 million')
    >>> bare_value("13 or 14"), bare_value("x = 12, y = 13"), bare_value("2x = 26"), bare_value("13 dozen"), bare_value("12+1")
    ('13 or 14', 'x = 12, y = 13', '2x = 26', '13 dozen', '12+1')
    """
    text = _value_side(without_lead_in(undress(text)))
    text = _without_thing(_without_brackets(text).replace(" per cent", " percent"))
    return _without_brackets(text)


def _without_fonts(text: str) -> str:
    r"""Replaces \text{...} and its like by what they hold, between boundaries."""
    kept, position = [], 0
    closings: list[str] = []
    for mark in _FONT_OR_BRACE.finditer(text):
        if mark[0] in "{}":
            replacement = mark[0] if mark[0] == "{" or not closings else closings.pop()
            if mark[0] == "{":
                closings.append("}")
        elif mark[0].endswith("{") and len(mark[0]) > 2:
            replacement = _BOUNDARY
            closings.append(_BOUNDARY)
        else:
            continue
        kept += [text[position : mark.start()], replacement]
        position = mark.end()
    return "".join([*kept, text[position:]])


def _closes_at_end(text: str, opening: str, closing: str) -> bool:
    """Whether the first character opens a bracket that the last one closes."""
    if not (text.startswith(opening) and text.endswith(closing)):
        return False
    depth = 0
    for place, character in enumerate(text):
        escaped = text[place - 1 : place] == "\\"
        depth += 0 if escaped else (character == opening) - (character == closing)
        if depth == 0:
            return place == len(text) - 1
    return False


def _without_brackets(text: str) -> str:
    text = text.strip()
    for _ in range(_MOST_LAYERS):
        if not (_closes_at_end(text, "(", ")") or _closes_at_end(text, "{", "}")):
            break
        text = text[1:-1].strip()
    return text


def _value_side(text: str) -> str:
    """The side of an equation that holds its value: the last one, or the first of `13 = x`. The whole text if it is not one."""
    first, *others = (side.strip() for side in text.split("="))
    if not others or len(others) >= _MOST_SIDES:
        return text
    *middle, last = others
    if not middle and _DIGIT.search(first) and not _is_names(first) and _is_names(last):
        return first
    if all(_leads_to(side, last) for side in middle) and (not first or _leads_to(first, last) or _is_names(first)):
        return last
    return text


def _leads_to(side: str, value: str) -> bool:
    """Whether a side of an equation is arithmetic, such as 256+37, and not another number than `value`."""
    return bool(_ARITHMETIC.fullmatch(side)) and (not _ONE_NUMERAL.fullmatch(side) or side == value)


def _is_names(side: str) -> bool:
    """Whether a side is a name, such as x, f(2) or Total, or a sum of names. A single name may have no factor, power or term."""
    plain = _ARGUMENT.sub("", side)
    names = _NAME.findall(plain.replace("\\", " "))
    if not names or not _NAMES.fullmatch(side) or len(side) > _LONGEST_THING or not _NOT_THINGS.isdisjoint(map(str.lower, names)):
        return False
    has_factor = bool(re.search(r"[\d+*/^-]", plain))
    return len(set(names)) > 1 and not _ADJACENT_NAMES.search(plain) if has_factor else True


def _without_thing(text: str) -> str:
    """A number's text without its unit or the thing counted after it; a scale such as "million" stays. Else the whole text."""
    thing = _THING.search(text, max(0, len(text) - _LONGEST_THING))
    if thing is None:
        return text
    if thing["degree"]:
        return text[: thing.start()]
    words = re.findall("[A-Za-z]+", re.sub(_POWER, "", thing["words"]))
    scale = thing["gap"] + words[0] if words[0] in _SCALE_WORDS else ""
    counted = words[1:] if scale else words
    if (
        not all(map(_is_thing, counted))
        or words[-1] in ("per", "of")
        or (not scale and not thing["gap"] and words[0] not in _ATTACHED_UNITS)
    ):
        return text
    return text[: thing.start()] + scale


def _is_thing(word: str) -> bool:
    if len(word) <= 2:
        return word in _SHORT_UNITS
    return word.lower() not in _NOT_THINGS and word.lower() not in _SCALE_WORDS
