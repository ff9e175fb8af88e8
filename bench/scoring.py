"""Verdicts a second, by the pool that training uses: mathematics, and function tests in the jail; alone and with 1 % hostile.

    python -m bench.scoring [--items 400] [--workers 2] [--timeout-s 5] [--repeats 3] [--json FILE]

Every response is another one, as equal ones share a verdict. Three kinds are hostile: mathematics that the static limits name,
which should cost next to nothing; mathematics that only the deadline ends; and functions that loop, which their task ends after
5 seconds. Of the latter two each may cost a worker its deadline and little more. Cases are interleaved; medians are told.
"""

import argparse
import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vlrl.authoring.task_tools import score_all
from vlrl.scoring import Scorer
from vlrl.telemetry.clock import percentile
from vlrl.types import Row, Status

TASKS = Path(__file__).parents[1] / "tasks"
NAMED = r"\boxed{9^{9^{9^{9}}}}"
UNNAMED = r"\boxed{" + " + ".join(rf"\sin({n}x)\cos({n}y)" for n in range(1, 40)) + "}"
LOOP = "```python\ndef f(x):\n    while True: pass\n```\n"
LOOP_S = 5.0  # the deadline of code_tests
Pairs = list[tuple[str, Row]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One pass over a case: wall seconds, and the seconds of each verdict."""

    seconds: float
    latencies: list[float]
    right: int
    late: int


def mathematics(number: int) -> tuple[str, Row]:
    gold = rf"\frac{{\sqrt{{{number + 2}}}}}{{{number + 3}}}"
    return rf"\boxed{{\sqrt{{{number + 2}}} / {number + 3}}}", Row(key=str(number), answer=gold)


def code(number: int) -> tuple[str, Row]:
    tests = [f"assert f({n}) == {n + number}" for n in range(3)]
    return f"```python\ndef f(x):\n    return x + {number}\n```", Row(meta={"entry_point": "f", "tests": tests})


def with_hostile(pairs: Pairs, hostile: str) -> Pairs:
    """Every hundredth response replaced."""
    return [(f"{hostile} % {n}" if n % 100 == 50 else response, row) for n, (response, row) in enumerate(pairs)]


def run(task: str, pairs: Pairs, options: argparse.Namespace) -> Run:
    with Scorer([TASKS], options.workers, options.timeout_s, memory_mb=2048, timeouts_s={"code_tests": 4 * LOOP_S}) as scorer:
        warm = mathematics if task == "math_expression" else code
        score_all(task, [warm(10**6 + n) for n in range(4 * options.workers)], scorer)
        began = time.perf_counter()
        scores = score_all(task, pairs, scorer)
        return Run(
            seconds=time.perf_counter() - began,
            latencies=scorer.latencies[task],
            right=sum(score.reward == 1 for score in scores),
            late=sum(score.status is Status.TIMEOUT for score in scores),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    maths = [mathematics(n) for n in range(options.items)]
    codes = [code(n) for n in range(options.items)]
    cases: dict[str, tuple[str, Pairs, str, float]] = {  # by name: task, responses, the honest case beside it, deadline
        "mathematics": ("math_expression", maths, "", 0.0),
        "mathematics, 1 % that limits name": ("math_expression", with_hostile(maths, NAMED), "mathematics", 0.0),
        "mathematics, 1 % to the deadline": ("math_expression", with_hostile(maths, UNNAMED), "mathematics", options.timeout_s),
        "function tests": ("code_tests", codes, "", 0.0),
        "function tests, 1 % that loop": ("code_tests", with_hostile(codes, LOOP), "function tests", LOOP_S),
    }
    runs: dict[str, list[Run]] = {name: [] for name in cases}
    for _ in range(options.repeats):
        for name, (task, pairs, _, _) in cases.items():
            runs[name].append(run(task, pairs, options))
    print(f"{platform.machine()}, {options.items} items, {options.workers} workers, {options.repeats} repeats")
    for name, (_, pairs, beside, deadline_s) in cases.items():
        rates = sorted(len(pairs) / each.seconds for each in runs[name])
        one = runs[name][0]
        told = f"{name}: {statistics.median(rates):.0f} a second ({rates[0]:.0f} to {rates[-1]:.0f})"
        told += f", {1000 * percentile(one.latencies, 50):.1f} ms at half, {1000 * percentile(one.latencies, 99):.0f} ms at 99 %"
        told += f"; {one.right} right, {one.late} past the deadline"
        if beside:
            extra = statistics.median(hard.seconds - easy.seconds for hard, easy in zip(runs[name], runs[beside], strict=True))
            each_s = extra * options.workers / (len(pairs) // 100)
            told += f"; each hostile one costs a worker {1000 * each_s:.0f} ms"
            told += f", {each_s / deadline_s:.2f} of its deadline" if deadline_s else ""
        print(told)
    if options.json:
        options.json.write_text(json.dumps({name: [asdict(each) for each in of_case] for name, of_case in runs.items()}))


if __name__ == "__main__":
    main()
