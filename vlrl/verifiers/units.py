r"""Reads the unit at the end of an answer: 5 cm, 60 km/h, 9.8\text{ m/s}^2, 15 square centimeters, 12 \text{ apples}, 90^\circ.

Units are compared, never converted: km/h is kilometers per hour and m/s^2 is m s^{-2}, but 1 m is not 100 cm. The text is in the
spelling of `spelling.respelled`, in which each font is \text{...}.
"""

import re
from collections import Counter

Unit = tuple[tuple[str, int], ...]
"""The power of each factor, in alphabetical order: (("hour", -1), ("km", 1)). Empty if there is no unit."""

_UNITS = """mm millimeter millimetre, cm centimeter centimetre, dm decimeter decimetre, m meter metre, km kilometer kilometre,
    in inch inche, ft foot feet, yd yard, mi mile, mg milligram, g gram, kg kilogram kilo, lb pound, oz ounce, s sec second,
    min minute, h hr hour, day, week, month, year yr, mL milliliter millilitre, L l liter litre, gal gallon,
    degree deg, rad radian, N newton, J joule, W watt, V volt, Pa pascal, Hz hertz, dollar USD, cent, euro EUR, unit"""
_UNIT_OF = {spelling: unit for unit, *others in map(str.split, _UNITS.split(",")) for spelling in [unit, *others]}
_SHORT = {"mph": ("mi", "h"), "kph": ("km", "h"), "kmh": ("km", "h"), "kmph": ("km", "h")}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_NEEDS_TEXT = {"dm", "oz", "yr", "Pa", "Hz", "rad", "kilo", "gal"}  # also products of letters, or parts of other words
_BARE = (word for word in {*_UNIT_OF, *_SHORT} - _NEEDS_TEXT if len(word) > 1)
_KNOWN = rf"(?:(?:square|sq|cubic|cu)\.? )?(?:{'|'.join(sorted(_BARE, key=len, reverse=True))})s?(?![A-Za-z])\.?"

# These say more about the number than what it counts.
_NOT_UNITS = r"""or and not no plus minus times over divided by mod modulo base remainder factorial half halves thirds? quarters?
    i at to than least most more less fewer approximately about nearly perhaps maybe possibly choose is are was isn wrong
    incorrect squared cubed zero one two three four five six seven eight nine ten eleven twelve
    hundred thousand [mbtr]+illion dozen pairs? e pi"""
_WORD = rf"(?!(?:{'|'.join(_NOT_UNITS.split())})(?![A-Za-z]))[A-Za-z]+\.?"
_LATER = rf"(?:{_WORD}|squared|cubed)"
_POWER = r"(?: ?\^ ?\{? ?-?[1-9] ?\}?)?"
_TEXT = rf"\\text\{{ ?(?:per |/ ?)?{_WORD}{_POWER}(?:(?: ?[/.] ?| ){_LATER}{_POWER}){{0,3}} ?\}}"
_UNIT = re.compile(
    r"(?P<degree> ?\^ ?(?:\\circ|\{ ?\\circ ?\}))$"
    rf"|(?: ?{_TEXT}{_POWER}|(?<=[\d}}]) ?{_KNOWN}{_POWER}|(?<=\d) [mgshlL]{_POWER}(?![A-Za-z])"
    rf"|(?<=[\d}}]) [mg](?= ?/ ?(?:s|cm|mL)))"
    rf"(?:(?: ?/ ?| per | ?\\cdot ?)(?:{_TEXT}|{_KNOWN}|[mgshlL](?![A-Za-z])){_POWER}| ?{_TEXT}{_POWER})*$"
)
_PART = re.compile(r"(?P<per>/|\bper\b)|\^ ?\{? ?(?P<power>-?\d)|(?P<name>[A-Za-z]+)")
_IN_FRACTION = rf"\{{ ?({_TEXT}{_POWER}|[mgshlL]{_POWER}) ?\}}"
_FRACTION = re.compile(rf"(?<=[\d}}]) ?\\frac ?{_IN_FRACTION} ?{_IN_FRACTION}$")


def without_unit(text: str) -> tuple[str, Unit]:
    r"""The text before the unit, and the unit.

    >>> without_unit(r"60\text{ km/h}") == ("60", (("h", -1), ("km", 1))) and without_unit("5 square feet")
    ('5', (('ft', 2),))
    """
    text = _FRACTION.sub(r" \1/\2", text)
    ending = _UNIT.search(text)
    if ending is None:
        return text, ()
    return text[: ending.start()].rstrip() or text, (("degree", 1),) if ending["degree"] else _factors(ending.group())


def _factors(text: str) -> Unit:
    powers: Counter[str] = Counter()
    names, sign, next_power, last = [""], 1, 1, 1
    for part in _PART.finditer(text.replace(r"\text", "").replace(r"\cdot", "")):
        word = part["name"]
        if part["per"]:
            sign = -1
        elif part["power"]:
            for name in names:
                powers[name] += last * (int(part["power"]) - 1)
        elif word in ("squared", "cubed"):
            powers[names[0]] += last * (_POWERS[word] - 1)
        elif word.lower() in _POWERS:
            next_power = _POWERS[word.lower()]
        else:
            names, last = [_name(word)], sign
            if word.lower() in _SHORT:
                above, below = _SHORT[word.lower()]
                powers[above] += sign
                powers[below] -= sign
            else:
                powers[names[0]] += sign * next_power
            next_power = 1
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _name(word: str) -> str:
    singular = word.lower().removesuffix("s") if len(word) > 2 else word
    return _UNIT_OF.get(word) or _UNIT_OF.get(word.lower() if len(word) > 1 else word) or _UNIT_OF.get(singular, singular)
