"""Seconds of a step with sampling beside the training, against those of the loop that waits for each batch.

    python -m bench.overlap [--config configs/cpu.yaml] [--blocks 4] [--steps 8] [--json FILE] [SETTING=VALUE ...]

Two runs from the same cold start take turns of a few steps each, so that whatever else the machine does meets both: the engine in
the training process, and a separate one that is one step ahead. Each turn resumes its run; its first step is left out, and so is
its last in both, which has no next batch to sample. The two share the machine's cores, of which each process takes one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import write_json

ARMS = {"waits": ["rollout.place=colocated"], "one step ahead": ["rollout.place=separate", "rollout.staleness=1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/cpu.yaml")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "-m", "vlrl.cli", "train", options.config, f"runs={folder}", *options.overrides]
        _run([*train, "name=start", "steps=1", "evaluation.rows=2"])
        first = [f"model={folder}/start/coldstart", "coldstart.steps=0", "evaluation.rows=2", "evaluation.samples=1"]
        for block in range(1, options.blocks + 1):
            for arm, settings in ARMS.items():
                _run([*train, *first, *settings, f"name={arm}", f"steps={block * options.steps}"])
        seconds = {arm: _seconds(Path(folder) / arm / "metrics.jsonl", options.steps) for arm in ARMS}
    for arm, by_part in seconds.items():
        middle = {name: statistics.median(values) for name, values in by_part.items()}
        print(f"{arm}: " + ", ".join(f"{name} {value:.2f} s" for name, value in middle.items()))
    waits, ahead = (seconds[arm]["time/step"] for arm in ARMS)
    faster = statistics.median(waits) / statistics.median(ahead)
    print(f"A step is {faster:.2f} times as fast ahead ({len(waits)} steps each, medians)")
    write_json(options.json, command=" ".join(sys.argv[1:]), seconds=seconds, faster=faster)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _seconds(path: Path, of_a_block: int) -> dict[str, list[float]]:
    """By part, the seconds of each step but the first and the last of every block."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steady = [line for line in lines if line["step"] % of_a_block not in (0, 1)]
    parts = ("time/step", "time/generate", "time/sampling_ahead", "ahead/generate_s", "ahead/score_s", "time/sync")
    return {part: [line[part] for line in steady] for part in parts if part in steady[0]}


if __name__ == "__main__":
    main()
