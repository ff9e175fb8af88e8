r"""vlrl's verifiers beside the graders that others train with, on cases with known rewards, in one table.

    python -m bench.graders [--cases FOLDER] [--items 5] [--seed 0] [--timeout-s 20] [--wrong GRADER] [--json FILE]

--cases: a folder of TASK.jsonl files; bench/cases is the default. --items: generated puzzles of each family of reasoning-gym, if
it is installed. --wrong: also prints every case that this grader gets wrong. The graders:

vlrl: the task, as training scores with it. math-verify: its README's parse and verify, the reference in \boxed{}, the response
whole; for multiple choice with its extraction of letters. TRL: its accuracy_reward, and its reasoning_accuracy_reward, which
needs a closed <think>, so a response without reasoning gets an empty one. reasoning-gym: the family's score_answer, on what its
extract_answer finds.

Every grader runs in a process of its own, and a case that lasts longer than --timeout-s counts as not paid. A case is paid if its
reward is at least a half. A case counts as unread, and not in a grader's other columns, if the grader cannot read the reference,
or if the case needs more than a reference: options, a tolerance, or that yes means true. The others' parsers evaluate text, so
use cases that you trust.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from bench.grader_cases import CASES, Case, written_cases
from bench.measure import write_json
from vlrl.tasks import Task, load_task, score_response
from vlrl.types import Status

TASKS = Path(__file__).parents[1] / "tasks"
COMPARED = {"math_number", "math_expression", "multiple_choice", "geometry", "counting", "chart"}  # with one reference
NEEDS_MORE = {"letter and text", "text of an option", "number of an option", "formula of an option", "tolerance"}  # kinds
MODULES = {"vlrl": "vlrl", "math-verify": "math_verify", "reasoning-gym": "reasoning_gym"}
MODULES |= dict.fromkeys(("TRL accuracy", "TRL reasoning accuracy"), "trl")
INSTALL = {"math-verify": "math-verify", "reasoning-gym": "reasoning-gym==0.1.25"}
INSTALL |= dict.fromkeys(("TRL accuracy", "TRL reasoning accuracy"), "trl==1.16.0")
HALF = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """reward: None if the grader cannot read the case. late: it was stopped at the time limit."""

    reward: float | None
    seconds: float
    late: bool = False


def vlrl(case: Case) -> float | None:
    score = score_response(_loaded(case.task), case.response, case.row)
    return None if score.status is Status.BAD_ROW else score.reward


@cache
def _loaded(task: str) -> Task:
    return load_task(task, [TASKS])


def math_verify(case: Case) -> float | None:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

    targets: list[Any] = [LatexExtractionConfig(), ExprExtractionConfig()]
    if options := case.row.meta.get("options"):
        targets.append(StringExtractionConfig(strings=tuple(ascii_uppercase[: len(options)])))
    gold = parse(_in_latex(case.row.answer), extraction_config=targets)
    return float(verify(gold, parse(case.response, extraction_config=targets))) if gold else None


def trl_accuracy(case: Case) -> float | None:
    from trl.rewards import accuracy_reward

    rewards: list[float | None] = accuracy_reward([[{"content": case.response}]], [_in_latex(case.row.answer)])
    return rewards[0]


def trl_reasoning_accuracy(case: Case) -> float | None:
    from trl.rewards import reasoning_accuracy_reward

    response = case.response if "<think>" in case.response else f"<think></think>{case.response}"
    rewards: list[float | None] = reasoning_accuracy_reward([[{"content": response}]], [_in_latex(case.row.answer)])
    return rewards[0]


def gym(case: Case) -> float | None:
    from reasoning_gym import get_score_answer_fn
    from reasoning_gym.utils import extract_answer

    found = extract_answer(f"<answer>{case.answer}</answer>")
    return float(get_score_answer_fn(case.kind)(found, case.entry))


def _in_latex(answer: object) -> str:
    r"""The reference as math-verify finds it in a text; words are \text, since its parser takes their letters for factors."""
    reference = str(answer)
    is_word = len(reference) > 1 and reference.replace(" ", "").isalpha() and not reference.isupper()
    return rf"\boxed{{\text{{{reference}}}}}" if is_word else rf"\boxed{{{reference}}}"


GRADERS: dict[str, Callable[[Case], float | None]] = {
    "vlrl": vlrl,
    "math-verify": math_verify,
    "TRL accuracy": trl_accuracy,
    "TRL reasoning accuracy": trl_reasoning_accuracy,
    "reasoning-gym": gym,
}


def reads(grader: str, case: Case) -> bool:
    """Whether the case is of a kind that the grader is made for."""
    if grader == "vlrl":
        return True
    if grader == "reasoning-gym" or case.entry:
        return grader == "reasoning-gym" and bool(case.entry)
    return case.task in COMPARED and case.kind not in NEEDS_MORE


def judged(grader: str, case: Case) -> tuple[float | None, float]:
    """The reward and the seconds that it took, in the grader's process."""
    began = time.perf_counter()
    reward = GRADERS[grader](case)
    return reward, time.perf_counter() - began


def verdicts(grader: str, cases: Sequence[Case], timeout_s: float) -> list[Verdict]:
    """What the grader says to each case, in order. A process that exceeds the time limit is killed and replaced."""
    context = multiprocessing.get_context("spawn")
    found: list[Verdict] = []
    pool = context.Pool(1)
    pool.apply(judged, (grader, cases[0]))  # so that no case pays for the imports
    for case in cases:
        try:
            reward, seconds = pool.apply_async(judged, (grader, case)).get(timeout_s)
            found.append(Verdict(reward=reward, seconds=seconds))
        except multiprocessing.TimeoutError:
            found.append(Verdict(reward=0.0, seconds=timeout_s, late=True))
            pool.terminate()
            pool = context.Pool(1)
            pool.apply(judged, (grader, cases[0]))
    pool.terminate()
    return found


def counts(pairs: Sequence[tuple[Case, Verdict]]) -> dict[str, float]:
    """The columns of a grader's row. paid_in_part: wrong cases that get a reward below a half."""
    read = [(case.expected >= HALF, verdict) for case, verdict in pairs if verdict.reward is not None]
    rewards = [(is_right, verdict.reward or 0.0) for is_right, verdict in read]
    return {
        "read": len(read),
        "right": sum(is_right == (reward >= HALF) for is_right, reward in rewards),
        "paid_wrongly": sum(not is_right and reward >= HALF for is_right, reward in rewards),
        "paid_in_part": sum(not is_right and 0 < reward < HALF for is_right, reward in rewards),
        "refused_wrongly": sum(is_right and reward < HALF for is_right, reward in rewards),
        "late": sum(verdict.late for _, verdict in read),
        "median_ms": 1000 * statistics.median([verdict.seconds for _, verdict in read] or [0.0]),
    }


def row_of_table(group: str, grader: str, found: Mapping[str, float]) -> str:
    in_part = f" (+{found['paid_in_part']} in part)" if found["paid_in_part"] else ""
    late = f" ({found['late']} too late)" if found["late"] else ""
    cells = [group, grader, f"{found['right']} of {found['read']}", f"{found['paid_wrongly']}{in_part}"]
    return f"| {' | '.join([*cells, str(found['refused_wrongly']) + late, str(found['unread'])])} | {found['median_ms']:.2g} |"


def wrong_cases(pairs: Sequence[tuple[Case, Verdict]]) -> list[dict[str, object]]:
    return [
        {"task": case.task, "kind": case.kind, "answer": case.row.answer, "response": case.response, "reward": verdict.reward}
        for case, verdict in pairs
        if verdict.reward is not None and (verdict.reward >= HALF) != (case.expected >= HALF)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--items", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout-s", type=float, default=20.0)
    parser.add_argument("--wrong", choices=GRADERS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = list(written_cases(options.cases))
    if find_spec("reasoning_gym"):
        from bench.gym_cases import generated_cases

        cases += generated_cases(options.items, options.seed)
    results: dict[str, list[tuple[Case, Verdict]]] = {}
    for grader in GRADERS:
        if find_spec(MODULES[grader]) is None:
            print(f"{grader} is left out: it is not installed (pip install {INSTALL[grader]})")
            continue
        own = [case for case in cases if reads(grader, case)]
        if own:
            results[grader] = list(zip(own, verdicts(grader, own, options.timeout_s), strict=True))
    table: dict[str, dict[str, dict[str, float]]] = {}
    print(
        "| cases | grader | right | paid wrongly | refused wrongly | unread | ms |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for group in dict.fromkeys(case.group for case in cases):
        total = sum(case.group == group for case in cases)
        for grader, pairs in results.items():
            if of_group := [pair for pair in pairs if pair[0].group == group]:
                found = counts(of_group) | {"unread": total - counts(of_group)["read"]}
                table.setdefault(group, {})[grader] = found
                print(row_of_table(group, grader, found))
    wrong = {grader: wrong_cases(pairs) for grader, pairs in results.items()}
    for case in wrong.get(options.wrong, []):
        print(json.dumps(case, ensure_ascii=False))
    write_json(options.json, table=table, wrong=wrong)


if __name__ == "__main__":
    main()
