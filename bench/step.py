"""Where a step's time goes: a real run, its pieces as its own clock tells them, and their shares.

    python -m bench.step [--config configs/cpu.yaml] [--steps 40] [--skip 5] [--json FILE] [SETTING=VALUE ...]

A piece is what the loop waits for: scoring is what is left of it after the last response, sealing of a checkpoint what is left
after a whole step beside it. log and save come after a step and are told with the next. The first steps are left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import write_json
from vlrl.telemetry.metrics import read_key

COMPUTED = ("generate", "old_logprobs", "forward", "backward")
OUTSIDE = ("log", "save")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/cpu.yaml")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--skip", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"runs={folder}", "name=step", f"steps={options.steps}", "evaluation.rows=8", *options.overrides]
        command = [sys.executable, "-m", "vlrl.cli", "train", options.config, *settings]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(folder) / "step/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines[options.skip :]]
    keys = {read_key(name) for step in steps for name in step}
    names = {key.label for key in keys if key.family == "time"} - {"step"}
    spent = {name: sum(step.get(f"time/{name}", 0.0) for step in steps) for name in names}
    whole = sum(step["time/step"] for step in steps) + sum(spent[name] for name in OUTSIDE)
    spent["rest"] = whole - sum(spent.values())
    print("| piece | ms a step | median | share |\n| --- | --- | --- | --- |")
    for name in sorted(spent, key=lambda name: -spent[name]):
        median = statistics.median(step.get(f"time/{name}", 0.0) for step in steps)
        print(f"| {name} | {1000 * spent[name] / len(steps):.1f} | {1000 * median:.1f} | {spent[name] / whole:.1%} |")
    other = 1 - sum(spent[name] for name in COMPUTED) / whole
    print(f"a step takes {whole / len(steps):.2f} s; other than {', '.join(COMPUTED)}: {other:.1%}")
    write_json(options.json, command=" ".join(sys.argv[1:]), steps=len(steps), seconds=spent, other=other)


if __name__ == "__main__":
    main()
