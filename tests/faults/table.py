"""The table of the matrix, as docs/faults.md has it."""

from collections.abc import Mapping
from itertools import groupby

from tests.faults.cells import CELLS, COLUMNS, FAULTS, Fault
from tests.faults.matrix import Result

HEAD = """# Faults

What a training run does when something fails. Each cell is a real run (a tiny model, DeepSpeed, vLLM, verifiers, {steps} steps)
that one fault hits at the moment named, and that is then started again with the same command. **equal**: it leaves what a run of
the same configuration leaves that nothing interrupts, bit for bit: the exported model, the last checkpoint's tensors, metrics
(without times), rollouts, histograms, token traces, and the summary. **sentence, equal**: the run, or its next start, printed the
sentence of the last column, and equals the other run after the fault is gone. **all else equal**: what the fault touched is
missing, and nothing else differs. A dash: this cell does not exist; "not run": it exists, and this table has no result of it.

    python -m tests.faults --json faults.json --table docs/faults.md

makes this table ({cells} cells); `--quick` runs those that a test runs, `--only PATTERN` some, `--list` names them.
"""


def table(results: Mapping[str, Result]) -> str:
    """Markdown. results: by the names of their cells."""
    from tests.faults.runs import STEPS

    lines = [HEAD.format(steps=STEPS, cells=len(CELLS))]
    for kind, faults in groupby(FAULTS, key=lambda fault: fault.kind):
        lines.append(f"\n## {kind[0].upper()}{kind[1:]}\n")
        lines.append(f"| fault | {' | '.join(map(str, COLUMNS))} | sentence |")
        lines.append("|---" * (len(COLUMNS) + 2) + "|")
        lines += [_row(fault, results) for fault in faults]
    return "\n".join(lines) + "\n"


def _row(fault: Fault, results: Mapping[str, Result]) -> str:
    cells = {cell.configuration: results.get(str(cell)) for cell in CELLS if cell.fault is fault}
    words = [_word(cells[column]) if column in cells else "–" for column in COLUMNS]
    said = next((result.said for result in cells.values() if result and result.said), ())
    return f"| {fault.name} | {' | '.join(words)} | {'<br>'.join(f'`` {each} ``' for each in said)} |"


def _word(result: Result | None) -> str:
    if result is None or result.was_skipped:
        return "not run"
    if result.fault:
        return "**fails**"
    return ("sentence, " if result.said else "") + ("equal" if result.is_equal else "all else equal")
