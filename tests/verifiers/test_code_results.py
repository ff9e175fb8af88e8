"""What functions return and how tests use it: values of many types cross, liars do not, and classes answer calls alone."""

import pytest

from tests.conftest import PATIENCE_S
from tests.verifiers.cases import cases
from vlrl.sandbox.plain_data import decode, encode
from vlrl.tasks import BadRow
from vlrl.types import Status
from vlrl.verifiers.code import run_calls, same_value, score_calls, score_tests


def of_kind(kind: str) -> list:
    return [pytest.param(case["solution"], id=case["name"]) for case in cases("results") if case["kind"] == kind]


def fenced(source: str) -> str:
    return f"```python\n{source}\n```"


def judged(source: str, *tests: str, entry_point: str = "f", setup: str = ""):
    return score_tests(fenced(source), entry_point, tests, setup=setup, timeout_s=PATIENCE_S, memory_mb=1024)


def called(expression: str, expected, imports: str = "") -> float:
    source = f"{imports}\ndef f():\n    return {expression}"
    return score_calls(fenced(source), "f", [[[], expected]], timeout_s=PATIENCE_S, memory_mb=1024).reward


# In test code, each result equals what the test expects, as it does in Python.
RESULTS = {
    "bytes": ("", "b'a\\0'", "b'a\\0'"),
    "bytearray": ("", "bytearray(b'a')", "bytearray(b'a')"),
    "Decimal": ("from decimal import Decimal", "Decimal('1.50')", "Decimal('1.5')"),
    "Fraction": ("from fractions import Fraction", "Fraction(1, 3)", "Fraction(2, 6)"),
    "date": ("import datetime", "datetime.date(2024, 2, 29)", "datetime.date(2024, 2, 29)"),
    "datetime": ("import datetime", "datetime.datetime(2024, 2, 29, 1, 2, 3, 4)", "datetime.datetime(2024, 2, 29, 1, 2, 3, 4)"),
    "timedelta": ("import datetime", "datetime.timedelta(1, 2, 3)", "datetime.timedelta(1, 2, 3)"),
    "Counter": ("from collections import Counter", "Counter('aab')", "Counter('aba')"),
    "deque": ("from collections import deque", "deque([1, (2,)])", "deque([1, (2,)])"),
    "range": ("", "range(1, 9, 2)", "range(1, 9, 2)"),
    "a long number": ("", "7 ** 9999", "7 ** 9999"),
    "complex": ("", "1j", "1j"),
}


@pytest.mark.parametrize(("imports", "value", "same"), RESULTS.values(), ids=RESULTS)
def test_a_result_of_a_standard_type_is_itself_in_test_code(imports, value, same):
    score = judged(
        f"{imports}\ndef f(): return {value}", f"assert f() == {same}", f"assert type(f()) is type({same})", setup=imports
    )
    assert score.reward == 1.0, score.detail


@pytest.mark.parametrize(("imports", "value", "same"), RESULTS.values(), ids=RESULTS)
def test_plain_data_survives_both_ways(imports, value, same):
    namespace: dict = {}
    exec(imports, namespace)
    built = eval(value, namespace)
    assert decode(encode([built, {1: built}])) == [built, {1: built}]


def test_a_named_tuple_keeps_its_fields_in_test_code():
    source = "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, y=2)"
    assert judged(source, "assert f() == (1, 2) and f().y == 2").reward == 1.0


@pytest.mark.parametrize(
    ("expression", "expected", "imports"),
    [
        ("(1, (2, [3]))", [1, [2, [3]]], ""),
        ("range(3)", [0, 1, 2], ""),
        ("deque([1, 2])", [1, 2], "from collections import deque"),
        ("P(1, 2)", [1, 2], "from collections import namedtuple\nP = namedtuple('P', 'x y')"),
        ("Counter('aab')", {"a": 2, "b": 1}, "from collections import Counter"),
        ("{1: (2,), True and 2: [3]}", {"1": [2], "2": [3]}, ""),
        ("Decimal('0.5')", 0.5, "from decimal import Decimal"),
        ("Fraction(6, 2)", 3, "from fractions import Fraction"),
        ("datetime.date(2024, 1, 2)", "2024-01-02", "import datetime"),
        ("np.arange(4).reshape(2, 2)", [[0, 1], [2, 3]], "import numpy as np"),
        ("[np.int64(3), np.float64(0.5), np.bool_(True)]", [3, 0.5, True], "import numpy as np"),
    ],
)
def test_json_holds_the_nearest_value_for_types_that_it_has_not(expression, expected, imports):
    assert called(expression, expected, imports) == 1.0


@pytest.mark.parametrize(
    ("expression", "expected", "imports"),
    [
        ("(1, 3)", [1, 2], ""),
        ("(1, 2, 3)", [1, 2], ""),
        ("(1, True)", [1, 1], ""),
        ("{1, 2}", [1, 2], ""),
        ("'12'", ["1", "2"], ""),
        ("{'a': 1, 'b': 2}", ["a", "b"], ""),
        ("{1: 0, '1': 5}", {"1": 5}, ""),
        ("{7 ** 9999: 0}", {"1": 0}, ""),
        ("[7 ** 9999]", [1], ""),
        ("3.0", 3, ""),
        ("3", 3.0, ""),
        ("Decimal('3.5')", 3, "from decimal import Decimal"),
        ("Decimal('nan')", 0.5, "from decimal import Decimal"),
        ("Decimal('snan')", 3, "from decimal import Decimal"),
        ("Decimal('1e999999')", 3, "from decimal import Decimal"),
        ("Fraction(10 ** 999, 3)", 0.5, "from fractions import Fraction"),
        ("b'abc'", "abc", ""),
        ("range(10 ** 18)", [0], ""),
        ("np.array([])", [1], "import numpy as np"),
        ("np.array([True])", [1], "import numpy as np"),
        ("np.array([1], dtype=object)", ["1"], "import numpy as np"),
    ],
)
def test_another_value_is_wrong_also_where_json_lacks_its_type(expression, expected, imports):
    assert called(expression, expected, imports) == 0.0


def test_sets_and_deques_are_the_same_in_the_types_of_their_elements_too():
    assert not same_value(frozenset({1}), frozenset({True})) and not same_value({(1,)}, {(True,)})
    assert same_value(frozenset({1, "a"}), frozenset({"a", 1}))


@pytest.mark.parametrize("liar", of_kind("liar"))
def test_a_liar_is_paid_by_no_kind_of_test(liar):
    for test in (
        "assert f(2) == 3",
        "assert f(2) in [3]",
        "assert not f(2) != 3",
        "assert 3 == f(2)",
        "assert f(2).bit_length() == 2",
        "assert all(map(lambda x: f(x) == 3, [2]))",
    ):
        score = judged(liar, test)
        assert (score.reward, score.status) == (0.0, Status.OK), test


SOLVER = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        return a + b"


@pytest.mark.parametrize("entry_point", ["Solution", "Solution().add", "add"])
def test_a_class_solution_answers_tests_of_its_method(entry_point):
    tests = ["assert Solution().add(1, 2) == 3", "s = Solution()\nassert s.add(a=2, b=2) == 4"]
    assert judged(SOLVER, *tests, entry_point=entry_point).reward == 1.0
    assert judged(SOLVER.replace("+", "-"), *tests, entry_point=entry_point).reward == 0.0


@pytest.mark.parametrize("entry_point", ["Solution().add", "add"])
def test_a_method_may_be_the_candidate(entry_point):
    assert judged(SOLVER, "def check(candidate):\n    assert candidate(1, b=2) == 3", entry_point=entry_point).reward == 1.0
    assert score_calls(fenced(SOLVER), entry_point, [[[1, 2], 3]], timeout_s=PATIENCE_S).reward == 1.0


def test_an_object_keeps_its_state_and_shows_its_attributes():
    source = "class Counter:\n    def __init__(self, start): self.n = start\n    def add(self): self.n += 1"
    tests = ["c, d = Counter(1), Counter(5)\nc.add()\nassert c.add() is None\nassert (c.n, d.n) == (3, 5)"]
    assert judged(source, *tests, entry_point="Counter").reward == 1.0


@pytest.mark.parametrize(
    "test", ["assert Stack()", "assert Stack() == 3", "assert Stack() != 3", "assert Stack() in [3]", "assert Stack().full"]
)
def test_an_object_s_own_opinion_of_itself_counts_nothing(test):
    source = "class Stack:\n    __eq__ = __ne__ = __bool__ = lambda *_: True\n    def full(self): return True"
    assert judged(source, test, entry_point="Stack").reward == 0.0


def test_tests_can_expect_python_s_own_exceptions():
    test = "try:\n    f(0)\n    assert False, 'no error'\nexcept ValueError:\n    pass"
    assert judged("def f(x): raise ValueError('zero')", test).reward == 1.0
    assert judged("def f(x): raise KeyError('zero')", test).reward == 0.0
    assert judged("def f(x): raise KeyError('zero')", test).detail == "SolutionError: KeyError: 'zero'"


def test_test_functions_that_nothing_calls_are_called():
    for test in (
        "def check(candidate):\n    assert candidate(2) == 3",
        "def test_two():\n    assert f(2) == 3",
        "def check():\n    assert f(2) == 3",
    ):
        assert judged("def f(x): return x + 1", test).reward == 1.0
        assert judged("def f(x): return x", test).reward == 0.0
    assert judged("def f(x): return x", "def check(candidate):\n    assert candidate(2) == 3\n", "check(f)").reward == 0.0


@pytest.mark.parametrize(
    "test", ["assert True", "METADATA = {}", "def test_it(fixture):\n    assert f(2) == 3", "assert g(2) == 3", "class T: pass"]
)
def test_tests_that_never_call_the_solution_are_the_row_s_fault(test):
    with pytest.raises(BadRow, match="never call 'f'"):
        judged("def f(x): return x + 1", test)


@pytest.mark.parametrize("source", of_kind("definition"))
def test_a_module_may_define_what_it_needs(source):
    score = judged(source, "assert f(2) == 3")
    assert score.reward == 1.0, score.detail


def test_a_name_of_python_s_own_is_not_the_solution_s():
    assert score_calls(fenced("pass"), "sum", [[[[1, 2]], 3]], timeout_s=PATIENCE_S).detail == "KeyError: 'sum'"


@pytest.mark.parametrize(
    "source",
    [
        "1 / 0",
        "raise SystemExit(0)",
        "import os\nos._exit(0)",
        "def f(x): return str(object())",
        "def f(x): return {'a', 'b', 'c'}",
    ],
)
def test_a_broken_solution_is_described_in_the_same_words_each_time(source):
    details = {score_calls(fenced(source), "f", [[[1], 2], [[2], 3]], timeout_s=PATIENCE_S).detail for _ in range(3)}
    assert len(details) == 1
    assert "0x" not in details.pop().replace("0x...", "")


def test_a_process_that_is_gone_is_asked_what_it_said_first():
    (outcome,) = run_calls("import time\nraise ValueError('first')", "f", [()], timeout_s=PATIENCE_S, memory_mb=256)
    assert outcome.error == "ValueError: first"
