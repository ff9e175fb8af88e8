"""Every shipped task against hostile text of up to a megabyte, through the pool that training uses.

Whatever a response holds, its verifier gives a verdict in time, no reward, and touches no file, no network and no process. A
model's code is another matter: it does run, in its jail, see tests/sandbox/test_attacks.py.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from vlrl.scoring import Scorer
from vlrl.tasks import load_task
from vlrl.types import Rollout, Row, Status

SHIPPED = Path(__file__).parents[2] / "tasks"
NAMES = sorted(path.stem for path in SHIPPED.glob("[!_]*.py"))
RUNS_CODE = {"code_tests", "code_stdin", "functions"}
ASKS_A_JUDGE = {"judged_answer"}  # see tests/scoring/test_judge.py, which puts these texts to one
MEGABYTE = 10**6
SIZES = [MEGABYTE // 10, pytest.param(MEGABYTE, marks=pytest.mark.slow)]

# The task with a hook that counts what Python does for it, once its own examples have imported all that it needs.
WATCHED = """
import sys
from dataclasses import replace
import sympy.physics.units  # sympy's own late import, which evaluates its own names
from vlrl.tasks import load_task

task = load_task({name!r}, [{folder!r}])
prompt, EXAMPLES = task.prompt, task.examples
for response, row, _ in task.examples:
    task.verify(response, row)
reached = []

def watch(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    runs = event == "exec" and args[0].co_filename.startswith("<")
    runs = runs and not "".join(args[0].co_names[:1]).startswith("monomial_")  # sympy's own arithmetic, which it writes so
    if writes or runs or event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.kill", "os.remove")):
        reached.append((event, str(args)[:80]))

sys.addaudithook(watch)

def verify(response, row):
    reached.clear()
    score = task.verify(response, row)
    return replace(score, parts={{"reached": len(reached)}}, detail=str(reached[:3]))
"""

PIECES = [
    *(r"\boxed{ } [ { ( \frac{ \sqrt{ 9 - \ ' $ ^{ ^9 ! | _ , e9 0x </think> <think> ab= P& \sum_{k=1}^{9}".split()),  # noqa: SIM905
    *(" ", "\n", '"', '{"a":', "A or ", "not ", "1 2\n", "```python\n", "```json\n", '{"bbox_2d": [0, 0, 9, 9]},'),
    *("\u0661", "\ud800", "\0"),
]
PAYLOADS = [
    "__import__('os').system('touch {mark}')",
    "open('{mark}', 'w').write('x')",
    "().__class__.__base__.__subclasses__()",
    "[x for x in iter(int, 1)]",
    "9**9**9",
    "factorial(10**7)",
    "\\input{{/etc/passwd}}\\write18{{touch {mark}}}",
    "!!python/object/apply:os.system ['touch {mark}']",
    "import socket; socket.create_connection(('127.0.0.1', 9))",
]


def hostile(mark: Path, size: int) -> Iterator[str]:
    """Texts of up to so many bytes that no one would be paid for."""
    for piece in PIECES:
        yield piece * (size // len(piece.encode(errors="surrogatepass")))
        yield "\\boxed{" + piece * 300 + "}"
    for payload in PAYLOADS:
        text = payload.format(mark=mark)
        yield from (text, f"\\boxed{{{text}}}", f"```json\n{text}\n```", f'[{{"bbox_2d": "{text}"}}]')
    rng = random.Random(0)
    yield "".join(map(chr, rng.choices(range(0x3000), k=size // 3)))
    yield rng.randbytes(size).decode(errors="surrogateescape")
    for _ in range(20):
        yield "".join(rng.choices(PIECES, k=rng.randint(1, 400)))


def rollout(text: str, slot: int) -> Rollout:
    return Rollout(slot=slot, sample=0, tokens=(), logprobs=(), text=text, finish_reason="stop", weight_versions=())


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Iterator[Scorer]:
    """Workers with every task under its hook."""
    folder = tmp_path_factory.mktemp("tasks")
    for name in NAMES:
        (folder / f"{name}.py").write_text(WATCHED.format(name=name, folder=str(SHIPPED)))
    with Scorer([folder], 2, PATIENCE_S, memory_mb=2048) as scorer:
        yield scorer


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in RUNS_CODE | ASKS_A_JUDGE])
def test_no_text_crashes_stalls_or_reaches_anything(pool, name, size, tmp_path):
    row = next(row for _, row, reward in load_task(name, [SHIPPED]).examples if reward > 0)
    texts = list(hostile(tmp_path / "mark", size))
    for slot, text in enumerate(texts):
        pool.submit(rollout(text, slot), name, Row(question=row.question, answer=row.answer, images=row.images, meta=row.meta))
    bad = {
        texts[slot][:60]: (score.status, score.reward, score.detail)
        for (slot, _), score in pool.collect().items()
        if score.status is not Status.OK or score.reward > 0 or score.parts["reached"]
    }
    assert bad == {}
    assert not (tmp_path / "mark").exists()
