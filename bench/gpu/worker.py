"""Runs the checks that it is given, one after another, in one process; see bench.gpu.__main__, which watches it."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from bench.gpu import kernels, models, whole_run
from bench.gpu.checking import SKIPPED, Scale, Tell, clear, full, small


@dataclass(frozen=True, slots=True)
class Check:
    """run: of a scale, telling figures; seconds: after which it is ended; needs: packages without which it is skipped."""

    run: Callable[[Scale, Tell], None]
    seconds: int
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        return [package for package in self.needs if find_spec(package) is None]


CHECKS: dict[str, Check] = {
    "patch_embedding": Check(kernels.patch_embedding, 60),
    "group_attention": Check(kernels.group_attention, 60),
    "loss_head": Check(kernels.loss_head, 60),
    "whole_model": Check(models.whole_model, 90),
    "memory_slopes": Check(models.memory_slopes, 90),
    "accumulation": Check(models.accumulation, 60),
    "head_precision": Check(models.head_precision, 30),
    "experts": Check(models.experts, 60),
    "waits": Check(models.waits, 60),
    "where_time_goes": Check(models.where_time_goes, 60),
    "out_of_memory": Check(models.out_of_memory, 60),
    "vision_attention": Check(kernels.vision_attention, 60),
    "optimizer": Check(kernels.optimizer, 60),
    "repeated": Check(models.repeated, 60),
    "whole_run": Check(whole_run.whole_run, 400, needs=("vllm", "deepspeed", "typer", "webdataset")),
}
"""In the order of what they are worth."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("checks", nargs="+", choices=CHECKS)
    options = parser.parse_args()
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not come between the lines
    scale = (small if options.small else full)(options.folder)
    torch.manual_seed(0)
    for name in options.checks:
        tell = Tell(lines, name)
        tell.begin()
        if missing := CHECKS[name].missing:
            tell.end(f"{SKIPPED}: {', '.join(missing)} missing")
            continue
        try:
            CHECKS[name].run(scale, tell)
            tell.end("done")
        except Exception as error:
            traceback.print_exc()
            tell.end(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            if "CUDA error" in str(error):
                sys.exit(1)  # nothing works any more in this process
            del error
        clear(scale)


if __name__ == "__main__":
    main()
