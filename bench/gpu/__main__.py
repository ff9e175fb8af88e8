"""What vlrl expects of a GPU, checked and timed in some minutes on one GPU of 80 GB, without a network.

    python -m bench.gpu [--only CHECK ...] [--small] [--json FILE]

The checks, those first that retire most risk: patch_embedding, group_attention, loss_head, whole_model, memory_slopes,
accumulation, head_precision, experts, waits, where_time_goes, out_of_memory, vision_attention, optimizer, repeated, whole_run.
They need torch, transformers, pydantic and qwen-vl-utils. whole_run, the command `vlrl train` on a random model, needs vLLM,
DeepSpeed and the rest of vlrl's packages; without them it is skipped. Each has a deadline: a check that passes it, or takes its
process down, keeps the figures that it had, and the others go on in a new process. --small: the same in little, on a CPU.
Exit code 1 where a check ended early or found a fault.
"""

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START_S = 120  # for Python, torch and the device

Found = dict[str, dict[str, Any]]


def watched(command: Sequence[str], deadlines: Mapping[str, float]) -> Found:
    """Runs `command CHECK ...` until each check has ended, anew where one hung or died.

    deadlines: seconds of each check. Returns each one's figures, faults, end and seconds.
    """
    found: Found = {}
    while rest := [name for name in deadlines if name not in found]:
        _watch_one([*command, *rest], {name: deadlines[name] for name in rest}, found)
    return found


def _watch_one(command: Sequence[str], deadlines: Mapping[str, float], found: Found) -> None:
    """One process, until it ends, or a check of it passes its deadline."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    name, began, limit = next(iter(deadlines)), time.monotonic(), float(START_S)
    entry: dict[str, Any] = {"figures": {}, "faults": []}
    try:
        while True:
            line = lines.get(timeout=max(0.0, began + limit - time.monotonic()))
            if line is None:
                break
            told = json.loads(line)
            if "begin" in told:
                name, began, entry = told["check"], time.monotonic(), {"figures": {}, "faults": []}
                limit = deadlines[name]
            elif "figure" in told:
                entry["figures"][told["figure"]] = told["value"]
                print(f"{name}: {told['figure']}: {told['value']}", flush=True)
            elif "fault" in told:
                entry["faults"].append(told["fault"])
                print(f"{name}: FAULT: {told['fault']}", flush=True)
            else:
                found[name] = entry | {"end": told["end"], "seconds": round(time.monotonic() - began, 1)}
                print(f"{name}: {told['end']} after {found[name]['seconds']} s", flush=True)
        how = f"its process ended with {process.wait()}"
    except queue.Empty:
        how = f"not done after {limit:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if any(each not in found for each in deadlines):
        unfinished = name if name not in found else next(each for each in deadlines if each not in found)
        found[unfinished] = entry | {"end": how, "seconds": round(time.monotonic() - began, 1)}
        print(f"{unfinished}: {how}", flush=True)


def _read(process: subprocess.Popen, lines: queue.Queue) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def main() -> None:
    from bench.gpu.checking import SKIPPED
    from bench.gpu.worker import CHECKS
    from bench.measure import write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    _tell_machine(options.small)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a checkpoint of 5 GB is written and read some times
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, "-m", "bench.gpu.worker", "--folder", folder, *["--small"] * options.small]
        found = watched(command, {name: CHECKS[name].seconds for name in options.only})
    write_json(options.json, command=" ".join(sys.argv[1:]), checks=found)
    ran = {name: of for name, of in found.items() if not of["end"].startswith(SKIPPED)}
    good = [name for name, of in ran.items() if of["end"] == "done" and not of["faults"]]
    print(f"{len(good)} of {len(ran)} checks are as expected" + "".join(f"\n  not: {name}" for name in ran if name not in good))
    sys.exit(len(good) < len(ran))


def _tell_machine(small: bool) -> None:
    import torch
    import transformers

    told = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        told += f", {torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        told += f", driver's CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    elif not small:
        sys.exit("bench.gpu: torch sees no GPU here; --small runs the same checks in little on a CPU")
    print(told, flush=True)


if __name__ == "__main__":
    main()
