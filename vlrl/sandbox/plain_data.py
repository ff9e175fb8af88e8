"""Plain data as JSON data and back, between a scoring worker and the jail.

Scalars are sent as JSON scalars, everything else as {type name: content}, so that a tuple stays a tuple and a Decimal a Decimal.
Any other type is refused, because a subclass could fake the result of a comparison: `decode` builds only the types named here.
NumPy's numbers and arrays become numbers and lists, and dict classes other than Counter become dicts.
"""

from binascii import a2b_base64, b2a_base64
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

TYPE_CHECKING = False  # the jail's start should not import typing
if TYPE_CHECKING:
    from typing import Any

_SCALARS = (type(None), bool, float, str)
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
_DICTS = (dict, OrderedDict, defaultdict)
_LONG_INT = 10**4000  # beyond some 4,300 digits, Python refuses to read or write a decimal number
_MAX_EXPONENT = 10_000  # of a Decimal; int() of a larger one fills the memory
_MAX_RANGE, _MAX_HEX, _MAX_FIELDS = 10**7, 10**5, 255  # what a scoring worker handles in an instant


def encode(value: "Any") -> "Any":
    """Converts plain data to JSON data. Raises TypeError if the value, or a value inside it, has another type.

    >>> encode({1: (True, None)})
    {'dict': [[1, {'tuple': [True, None]}]]}
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        return value if -_LONG_INT < value < _LONG_INT else {"int": hex(value)}
    if kind in _DICTS or kind is Counter:
        return {"Counter" if kind is Counter else "dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if kind in _SEQUENCES.values():
        return {kind.__name__: [encode(item) for item in value]}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind in (bytes, bytearray):
        return {kind.__name__: b2a_base64(value, newline=False).decode()}
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return {"namedtuple": [kind.__name__, list(kind._fields), [encode(item) for item in value]]}
    return _encode_by_name(value, f"{kind.__module__}.{kind.__qualname__}")


def _encode_by_name(value: "Any", name: str) -> "Any":
    """Encodes types whose modules the jail has not imported unless the solution did."""
    if name == "decimal.Decimal":
        return {"Decimal": str(value)}
    if name == "fractions.Fraction":
        return {"Fraction": [encode(value.numerator), encode(value.denominator)]}
    if name in ("datetime.datetime", "datetime.date", "datetime.time"):
        return {name.rpartition(".")[2]: value.isoformat()}
    if name == "datetime.timedelta":
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if name.startswith("numpy.") and hasattr(value, "tolist"):
        plain = value.tolist()
        return encode(float(plain) if type(plain) is type(value) else plain)  # a long double stays NumPy's
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(data: "Any") -> "Any":
    """The inverse of `encode`.

    Other data raises ValueError, TypeError, LookupError, AttributeError, ArithmeticError or SyntaxError.
    """
    if type(data) in _SCALARS or type(data) is int:
        return data
    ((kind, content),) = data.items()
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decode(item) for item in content)
    if kind in ("dict", "Counter"):
        items = {decode(key): decode(item) for key, item in content}
        return items if kind == "dict" else Counter(items)
    if kind == "int":
        if len(content) > _MAX_HEX:
            raise ValueError(f"a whole number of more than {_MAX_HEX} hexadecimal digits")
        return int(content, 16)
    if kind == "complex":
        return complex(*content)
    if kind == "range":
        numbers = range(*content)
        if numbers[_MAX_RANGE:]:
            raise ValueError(f"a range of more than {_MAX_RANGE} numbers")
        return numbers
    if kind in ("bytes", "bytearray"):
        return (bytes if kind == "bytes" else bytearray)(a2b_base64(content))
    if kind == "namedtuple":
        name, fields, values = content
        if len(fields) > _MAX_FIELDS:
            raise ValueError(f"a named tuple of more than {_MAX_FIELDS} fields")
        return namedtuple(name, fields)(*map(decode, values))  # type: ignore[misc]  # the fields come with the value
    return _decode_late(kind, content)


def _decode_late(kind: str, content: "Any") -> "Any":
    if kind == "Decimal":
        from decimal import Decimal

        value = Decimal(content)
        if value.is_snan() or (value.is_finite() and abs(value.adjusted()) > _MAX_EXPONENT):
            raise ValueError(f"a Decimal that is a signaling nan or has an exponent beyond {_MAX_EXPONENT}")
        return value
    if kind == "Fraction":
        from fractions import Fraction

        numerator, denominator = content
        return Fraction(decode(numerator), decode(denominator))  # of two numbers, or else a TypeError
    import datetime

    if kind == "timedelta":
        return datetime.timedelta(*content)
    kinds: dict[str, Any] = {"datetime": datetime.datetime, "date": datetime.date, "time": datetime.time}
    return kinds[kind].fromisoformat(content)
