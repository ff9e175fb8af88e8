"""Logic: who is a knight and who a knave, and what follows from what.

A truth table is one integer with a bit for each of its 2**8 rows. So `&` is conjunction, equal tables are equivalent
formulas, and a formula is parsed straight into its table: no syntax tree, no evaluation, no search.

As in answers.py, what the rules do not read is no answer; a row that cannot be read, or won, is a BadRow.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import and_, or_, xor
from typing import Any

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER

MAX_VARIABLES = 8
MAX_DEPTH = 64

_NUM_ROWS = 2**MAX_VARIABLES
_TRUE = (1 << _NUM_ROWS) - 1
_COLUMNS = [sum(1 << row for row in range(_NUM_ROWS) if row >> place & 1) for place in range(MAX_VARIABLES)]


def _not(table: int) -> int:
    return _TRUE ^ table


def _implies(one: int, other: int) -> int:
    return _not(one) | other


def _iff(one: int, other: int) -> int:
    return _not(one ^ other)


# How tightly each binds to its left and to its right, and what it makes of two tables.
_INFIX: dict[str, tuple[int, int, Callable[[int, int], int]]] = {
    "iff": (0, 1, _iff),
    "implies": (1, 1, _implies),  # so that P → Q → R is P → (Q → R)
    "or": (2, 3, or_),
    "xor": (3, 4, xor),
    "and": (4, 5, and_),
}
_TIGHTEST = 5
_BRACKETS = {"(": ")", "[": "]"}
_SPELLINGS = {
    "not": r"not ¬ ~ ! \neg \lnot",
    "and": r"and ∧ & && \land \wedge",
    "or": r"or ∨ | || \lor \vee",
    "xor": r"xor ⊕ \oplus",
    "implies": r"implies → -> ⇒ => \to \rightarrow \implies",
    "iff": r"iff ↔ <-> ⇔ <=> \leftrightarrow \iff",
}
_OPERATORS = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_TOKEN = re.compile(r"\\?[A-Za-z][A-Za-z0-9_]*|<->|<=>|->|=>|&&|\|\||\S")

_DRESS = re.compile(r'(?m:^ *- )|```[a-z]*|\\text(?:bf)?\{|["`*{}$]')
_BETWEEN_CLAUSES = re.compile(r"[,;.\n]|\band\b")
_IS = re.compile(r" ?[:=] ?| is ")


def equivalent(answer: str, gold: str) -> bool:
    """Whether both are formulas, and true in the same cases. BadRow where the reference is not a formula.

    Variables are ASCII words (P, q1, rain), at most 8 of them; brackets are () and []. Operators, tightest first:
    ¬ ~ ! not; ∧ & && and; ⊕ xor; ∨ | || or; → -> ⇒ => implies (to the right: P → Q → R is P → (Q → R)); ↔ <-> ⇔ <=> iff;
    or the LaTeX command for any. Dollar signs around and one full stop after are let pass; ^ could mean two things and
    means none. At most 4,096 characters and 64 levels, where brackets, negations and arrows in a row count.

    >>> equivalent("~(P or Q)", "¬P ∧ ¬Q"), equivalent("P -> Q", "Q → P"), equivalent("P, obviously", "P")
    (True, False, False)
    """
    columns: dict[str, int] = {}
    expected = _reference(gold, columns)
    return _answer(answer, columns) == expected


def follows(premises: Sequence[str], conclusion: str) -> bool:
    """Whether `conclusion` is a formula that is true wherever all premises are. BadRow where a premise is not a formula.

    >>> follows(["P → Q", "P"], "Q"), follows(["P → Q", "Q"], "P"), follows(["P"], "P ∨ ¬P")
    (True, False, True)
    """
    columns: dict[str, int] = {}
    given = reduce(and_, [_reference(premise, columns) for premise in premises], _TRUE)
    table = _answer(conclusion, columns)
    return table is not None and _implies(given, table) == _TRUE


def concludes(premises: Sequence[str], conclusion: str) -> bool:
    """Whether `conclusion` follows and says something: no tautology, no premise in any spelling, no variable of its own.

    BadRow where premises contradict each other, so that anything follows, or leave nothing else to conclude.

    >>> concludes(["P → Q", "P"], "Q"), concludes(["P → Q", "P"], "¬Q → ¬P"), concludes(["P → Q", "P"], "Q ∨ R")
    (True, False, False)
    """
    columns: dict[str, int] = {}
    tables = [_reference(premise, columns) for premise in premises]
    given, said, known = reduce(and_, tables, _TRUE), {_TRUE, *tables}, len(columns)
    if given == 0:
        raise BadRow(f"the premises {list(premises)} contradict each other")
    num_open = _not(given).bit_count() >> (MAX_VARIABLES - known)  # cases where a consequence may be true or false
    if 2**num_open == len(said):
        raise BadRow(f"nothing but themselves follows from the premises {list(premises)}")
    table = _answer(conclusion, columns)
    return table is not None and len(columns) == known and table not in said and _implies(given, table) == _TRUE


def solves_knights(answer: str, meta: Mapping[str, Any]) -> bool:
    """Whether `answer` gives every inhabitant of a reasoning-gym `knights_knaves` row the right role.

    meta: the row's metadata, of which names, knight_knave_terms, statements and solution are used. The statements are
    solved anew: BadRow unless the stored solution is their one solution, where knights' statements, and no others, hold.

    >>> meta = {"names": ["Ava", "Noah"], "knight_knave_terms": {"knight": "sage", "knave": "fool"}, "solution": [True, False],
    ...         "statements": [["lying", 1], ["and", ["telling-truth", 0], ["telling-truth", 1]]]}
    >>> solves_knights("Ava is a sage, and Noah is a fool.", meta), solves_knights("Ava: fool", meta)
    (True, False)
    """
    try:
        names, statements, solution = meta["names"], meta["statements"], meta["solution"]
        knight, knave = (meta["knight_knave_terms"][role] for role in ("knight", "knave"))
    except KeyError as error:
        raise BadRow(f"the row's metadata has no {error}") from None
    if not 1 <= len({name.casefold() for name in names}) == len(names) == len(statements) == len(solution) <= MAX_VARIABLES:
        raise BadRow(f"{names} with {len(statements)} statements and the solution {solution} make no puzzle of up to 8")
    _check_solution(statements, solution)
    return roles(answer, names, knight, knave) == dict(zip(names, map(bool, solution), strict=True))


def roles(answer: str, names: Sequence[str], knight: str, knave: str) -> dict[str, bool] | None:
    """Whether each of `names` is a knight, in the row's own two words for it; None unless each gets one role, once.

    A clause is `NAME is a ROLE`, `NAME: ROLE` or `NAME = ROLE`, in any case; clauses are set apart by commas, semicolons,
    full stops, line ends or "and". Mark-up (fences, bullets, bold, quotes, braces) is let pass, any other word is not.

    >>> roles("**Noah**: FOOL; Ava is a sage.", ["Ava", "Noah"], "sage", "fool")
    {'Noah': False, 'Ava': True}
    >>> roles("Ava is a sage and a fool, and Noah is a fool", ["Ava", "Noah"], "sage", "fool")
    """
    if len(answer) > MAX_ANSWER:
        return None
    name_of = {name.casefold(): name for name in names}
    is_knight = {article + word.casefold(): word == knight for word in (knight, knave) for article in ("", "a ", "an ")}
    told: dict[str, bool] = {}
    clauses = (" ".join(clause.split()) for clause in _BETWEEN_CLAUSES.split(_DRESS.sub("", answer).casefold()))
    for clause in filter(None, clauses):
        name, _, role = _IS.sub("\n", clause, count=1).partition("\n")
        if name not in name_of or role not in is_knight or name_of[name] in told:
            return None
        told[name_of[name]] = is_knight[role]
    return told if len(told) == len(names) else None


def _check_solution(statements: Sequence[Any], solution: Sequence[bool]) -> None:
    people = len(statements)
    holds = (1 << 2**people) - 1
    for column, statement in zip(_COLUMNS[:people], statements, strict=True):
        holds &= _iff(column, _claim(statement, people))
    stored = sum(1 << person for person, honest in enumerate(solution) if honest)
    if holds != 1 << stored:
        raise BadRow(f"{solution} is not the one solution of {statements}")


def _claim(statement: Any, people: int) -> int:
    """The truth table of a statement tree over the inhabitants, who are numbered."""
    match statement:
        case ["telling-truth", int(person)] if 0 <= person < people:
            return _COLUMNS[person]
        case ["lying", int(person)] if 0 <= person < people:
            return _not(_COLUMNS[person])
        case ["not", claim]:
            return _not(_claim(claim, people))
        case ["and", *claims]:
            return reduce(and_, [_claim(claim, people) for claim in claims], _TRUE)
        case ["or", *claims]:
            return reduce(or_, [_claim(claim, people) for claim in claims], 0)
        case ["->", one, other]:
            return _implies(_claim(one, people), _claim(other, people))
        case ["<=>", one, other]:
            return _iff(_claim(one, people), _claim(other, people))
    raise BadRow(f"{statement!r} is not a statement about {people} inhabitants")


def _reference(formula: str, columns: dict[str, int]) -> int:
    table = _answer(formula, columns)
    if table is None:
        raise BadRow(f"{formula!r} is not a formula, or one with more than {MAX_VARIABLES} variables in the row")
    return table


def _answer(formula: str, columns: dict[str, int]) -> int | None:
    """The truth table of `formula`, None if it is not one; `columns` has the variables met so far, and gets its new ones."""
    if len(formula) > MAX_ANSWER:
        return None
    text = formula.strip().removesuffix(".").strip("$")
    tokens = deque(_OPERATORS.get(token.lower(), token) for token in _TOKEN.findall(text))
    tokens.append("")  # the end, which is neither an operator nor a variable
    try:
        table = _parse(tokens, columns)
    except ValueError:
        return None
    return table if tokens[0] == "" else None


def _parse(tokens: deque[str], columns: dict[str, int], loosest: int = 0, depth: int = MAX_DEPTH) -> int:
    """Takes the longest formula off the front of `tokens` whose operators bind as tightly as `loosest`. ValueError if none."""
    if depth == 0:
        raise ValueError("too deep")
    token = tokens.popleft()
    if token == "not":
        table = _not(_parse(tokens, columns, _TIGHTEST, depth - 1))
    elif token in _BRACKETS:
        table = _parse(tokens, columns, 0, depth - 1)
        if tokens.popleft() != _BRACKETS[token]:
            raise ValueError("an open bracket")
    else:
        table = _column(token, columns)
    while (infix := _INFIX.get(tokens[0])) and infix[0] >= loosest:
        _, on_right, combine = infix
        tokens.popleft()
        table = combine(table, _parse(tokens, columns, on_right, depth - 1))
    return table


def _column(token: str, columns: dict[str, int]) -> int:
    if token not in columns:
        is_name = token.isascii() and token[:1].isalpha() and token not in _OPERATORS
        if not is_name or len(columns) == MAX_VARIABLES:
            raise ValueError(f"{token!r} is not a variable, or one too many")
        columns[token] = _COLUMNS[len(columns)]
    return columns[token]
