"""Verdicts a second, by the pool that training uses: function tests in the jail, and mathematics; alone and with 1 % hostile.

python -m bench.scoring [--items 400] [--workers 2] [--timeout-s 6]

Every response is another one, as equal ones share a verdict. Hostile mathematics comes in two kinds: what the static limits
name, and what only a deadline ends. A deadline of T seconds costs a worker T for each of the latter, and no more. A loop in a
function is ended by its task, after 5 seconds, and is a wrong answer.
"""

import argparse
import time
from pathlib import Path

from vlrl.author import score_all
from vlrl.scoring import Scorer
from vlrl.types import Row, Status

TASKS = Path(__file__).parents[1] / "tasks"
NAMED = "9^{9^{9^{9}}}"
UNNAMED = " + ".join(rf"\sin({n}x)\cos({n}y)" for n in range(1, 40))


def mathematics(number: int) -> tuple[str, Row]:
    gold = rf"\frac{{\sqrt{{{number + 2}}}}}{{{number + 3}}}"
    return rf"\boxed{{\sqrt{{{number + 2}}} / {number + 3}}}", Row(key=str(number), answer=gold)


def code(number: int) -> tuple[str, Row]:
    tests = [f"assert f({n}) == {n + number}" for n in range(3)]
    return f"```python\ndef f(x):\n    return x + {number}\n```", Row(meta={"entry_point": "f", "tests": tests})


def with_hostile(pairs: list[tuple[str, Row]], hostile: str) -> list[tuple[str, Row]]:
    """Every hundredth response replaced."""
    return [(f"{hostile} % {n}" if n % 100 == 50 else response, row) for n, (response, row) in enumerate(pairs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=6.0)
    options = parser.parse_args()
    maths = [mathematics(n) for n in range(options.items)]
    codes = [code(n) for n in range(options.items)]
    loop = "```python\ndef f(x):\n    while True: pass\n```\n"
    cases = {
        "mathematics": ("math_expression", maths),
        "mathematics, 1 % hostile that limits name": ("math_expression", with_hostile(maths, rf"\boxed{{{NAMED}}}")),
        "mathematics, 1 % hostile to the deadline": ("math_expression", with_hostile(maths, rf"\boxed{{{UNNAMED}}}")),
        "function tests": ("code_tests", codes),
        "function tests, 1 % loops": ("code_tests", with_hostile(codes, loop)),
    }
    print(f"{options.items} items, {options.workers} workers, deadline {options.timeout_s} s")
    for name, (task, pairs) in cases.items():
        with Scorer([TASKS], options.workers, options.timeout_s, memory_mb=2048) as scorer:
            score_all(task, [mathematics(10**6 + n) if task == "math_expression" else code(10**6 + n) for n in range(4)], scorer)
            began = time.perf_counter()
            scores = score_all(task, pairs, scorer)
            seconds = time.perf_counter() - began
        right = sum(score.reward == 1 for score in scores)
        late = sum(score.status is Status.TIMEOUT for score in scores)
        print(f"{name}: {len(pairs) / seconds:.0f} a second, {right} right, {late} past the deadline")


if __name__ == "__main__":
    main()
