"""Verifies propositional logic: equivalent formulas, valid conclusions, knights and knaves.

A truth table is an integer with one bit for each of its 2**8 rows. `&` is conjunction, and equivalent formulas have equal tables.
The parser builds the table directly: no syntax tree, no evaluation, no search.

As in answers.py, an answer that the rules cannot read is wrong. A row that is unreadable or unsolvable raises BadRow.
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


# For each operator: its binding power to the left, its binding power to the right, and its function on two tables.
_INFIX: dict[str, tuple[int, int, Callable[[int, int], int]]] = {
    "iff": (0, 1, _iff),
    "implies": (1, 1, _implies),  # right-associative: P → Q → R is P → (Q → R)
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

_MARKUP = re.compile(r'(?m:^ *- )|```[a-z]*|\\text(?:bf)?\{|["`*{}$]')
_BETWEEN_CLAUSES = re.compile(r"[,;.\n]|\band\b")
_IS = re.compile(r" ?[:=] ?| is ")


def equivalent(answer: str, gold: str) -> bool:
    """Whether both are formulas that are true in the same cases. Raises BadRow if the reference is not a formula.

    Variables are at most 8 ASCII words (P, q1, rain). Brackets are () and []. The operators, from the tightest: ¬ ~ ! not; ∧ & &&
    and; ⊕ xor; ∨ | || or; → -> ⇒ => implies (P → Q → R is P → (Q → R)); ↔ <-> ⇔ <=> iff. Each may also be its LaTeX command.
    Surrounding dollar signs and one final full stop are ignored. ^ is ambiguous and not accepted. A formula has at most 4,096
    characters and 64 levels; brackets, consecutive negations and consecutive arrows add levels.

    >>> equivalent("~(P or Q)", "¬P ∧ ¬Q"), equivalent("P -> Q", "Q → P"), equivalent("P, obviously", "P")
    (True, False, False)
    """
    columns: dict[str, int] = {}
    expected = _reference(gold, columns)
    return _answer(answer, columns) == expected


def follows(premises: Sequence[str], conclusion: str) -> bool:
    """Whether `conclusion` is a formula that is true whenever all premises are. Raises BadRow if a premise is not a formula.

    >>> follows(["P → Q", "P"], "Q"), follows(["P → Q", "Q"], "P"), follows(["P"], "P ∨ ¬P")
    (True, False, True)
    """
    columns: dict[str, int] = {}
    given = reduce(and_, [_reference(premise, columns) for premise in premises], _TRUE)
    table = _answer(conclusion, columns)
    return table is not None and _implies(given, table) == _TRUE


def concludes(premises: Sequence[str], conclusion: str) -> bool:
    """Whether `conclusion` follows from the premises and is not trivial.

    A tautology, a formula equivalent to a premise, and a formula with a new variable are trivial. Raises BadRow if the premises
    contradict each other, so that anything follows, or if they allow no such conclusion.

    >>> concludes(["P → Q", "P"], "Q"), concludes(["P → Q", "P"], "¬Q → ¬P"), concludes(["P → Q", "P"], "Q ∨ R")
    (True, False, False)
    """
    columns: dict[str, int] = {}
    tables = [_reference(premise, columns) for premise in premises]
    given, trivial, known = reduce(and_, tables, _TRUE), {_TRUE, *tables}, len(columns)
    if given == 0:
        raise BadRow(f"the premises {list(premises)} contradict each other")
    num_open = _not(given).bit_count() >> (MAX_VARIABLES - known)  # cases in which a consequence may be true or false
    if 2**num_open == len(trivial):
        raise BadRow(f"only tautologies and the premises themselves follow from the premises {list(premises)}")
    table = _answer(conclusion, columns)
    return table is not None and len(columns) == known and table not in trivial and _implies(given, table) == _TRUE


def solves_knights(answer: str, meta: Mapping[str, Any]) -> bool:
    """Whether `answer` gives every inhabitant of a reasoning-gym `knights_knaves` row the right role.

    meta: the row's metadata; names, knight_knave_terms, statements and solution are used. Raises BadRow unless the stored
    solution is the only one, i.e. the only assignment in which exactly the knights' statements are true.

    >>> meta = {"names": ["Ava", "Noah"], "knight_knave_terms": {"knight": "sage", "knave": "fool"}, "solution": [True, False],
    ...         "statements": [["lying", 1], ["and", ["telling-truth", 0], ["telling-truth", 1]]]}
    >>> solves_knights("Ava is a sage, and Noah is a fool.", meta), solves_knights("Ava: fool", meta)
    (True, False)
    """
    try:
        names, statements, solution = meta["names"], meta["statements"], meta["solution"]
        knight, knave = (meta["knight_knave_terms"][role] for role in ("knight", "knave"))
    except KeyError as error:
        raise BadRow(f"the row's meta has no {error}") from None
    if not 1 <= len({name.casefold() for name in names}) == len(names) == len(statements) == len(solution) <= MAX_VARIABLES:
        raise BadRow(
            f"the row has {len(names)} names, {len(statements)} statements and {len(solution)} solution values; "
            f"it needs 1 to {MAX_VARIABLES} different names and as many statements and solution values"
        )
    _check_solution(statements, solution)
    return roles(answer, names, knight, knave) == dict(zip(names, map(bool, solution), strict=True))


def roles(answer: str, names: Sequence[str], knight: str, knave: str) -> dict[str, bool] | None:
    """For each name, whether the answer says that it is a knight. None unless the answer gives each name exactly one role.

    knight, knave: the row's words for the two roles. A clause is `NAME is a ROLE`, `NAME: ROLE` or `NAME = ROLE`, in any case.
    Commas, semicolons, full stops, line ends or "and" separate clauses. Markup (fences, bullets, bold, quotes, braces) is
    ignored; any other word makes the answer None.

    >>> roles("**Noah**: FOOL; Ava is a sage.", ["Ava", "Noah"], "sage", "fool")
    {'Noah': False, 'Ava': True}
    >>> roles("Ava is a sage and a fool, and Noah is a fool", ["Ava", "Noah"], "sage", "fool")
    """
    if len(answer) > MAX_ANSWER:
        return None
    name_of = {name.casefold(): name for name in names}
    is_knight = {article + word.casefold(): word == knight for word in (knight, knave) for article in ("", "a ", "an ")}
    found: dict[str, bool] = {}
    clauses = (" ".join(clause.split()) for clause in _BETWEEN_CLAUSES.split(_MARKUP.sub("", answer).casefold()))
    for clause in filter(None, clauses):
        name, _, role = _IS.sub("\n", clause, count=1).partition("\n")
        if name not in name_of or role not in is_knight or name_of[name] in found:
            return None
        found[name_of[name]] = is_knight[role]
    return found if len(found) == len(names) else None


def _check_solution(statements: Sequence[Any], solution: Sequence[bool]) -> None:
    people = len(statements)
    holds = (1 << 2**people) - 1
    for column, statement in zip(_COLUMNS[:people], statements, strict=True):
        holds &= _iff(column, _claim(statement, people))
    stored = sum(1 << person for person, honest in enumerate(solution) if honest)
    if holds != 1 << stored:
        raise BadRow(f"the stored solution {solution} is not the only solution of {statements}")


def _claim(statement: Any, people: int) -> int:
    """The truth table of a statement tree over the numbered inhabitants."""
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
        raise BadRow(f"{formula!r} is not a formula, or the row has more than {MAX_VARIABLES} variables")
    return table


def _answer(formula: str, columns: dict[str, int]) -> int | None:
    """The truth table of `formula`; None if it is not a formula. `columns` holds the known variables; new ones are added."""
    if len(formula) > MAX_ANSWER:
        return None
    text = formula.strip().removesuffix(".").strip("$")
    tokens = deque(_OPERATORS.get(token.lower(), token) for token in _TOKEN.findall(text))
    tokens.append("")  # marks the end; it is neither an operator nor a variable
    try:
        table = _parse(tokens, columns)
    except ValueError:
        return None
    return table if tokens[0] == "" else None


def _parse(tokens: deque[str], columns: dict[str, int], loosest: int = 0, depth: int = MAX_DEPTH) -> int:
    """Removes the longest formula from the front of `tokens` whose operators bind at least as tightly as `loosest`.

    Raises ValueError if the tokens do not start with a formula.
    """
    if depth == 0:
        raise ValueError("too deep")
    token = tokens.popleft()
    if token == "not":
        table = _not(_parse(tokens, columns, _TIGHTEST, depth - 1))
    elif token in _BRACKETS:
        table = _parse(tokens, columns, 0, depth - 1)
        if tokens.popleft() != _BRACKETS[token]:
            raise ValueError("unclosed bracket")
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
            raise ValueError(f"{token!r} is not a variable, or the formula has too many variables")
        columns[token] = _COLUMNS[len(columns)]
    return columns[token]
