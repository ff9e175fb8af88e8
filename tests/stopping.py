"""The command, which is sent a signal at a moment of its run, whatever the machine's speed.

python -m tests.stopping SIGNAL MOMENT COUNT ARGUMENTS... runs `vlrl ARGUMENTS...` on this process, or on the ranks of a launcher,
which is sent the signal then: right after the COUNT-th call of the moment's function on the first rank.
"""

import os
import sys
from functools import wraps
from itertools import count

from vlrl.cli.main import app
from vlrl.telemetry.run_log import RunLog
from vlrl.trainer.policy import Policy

MOMENTS = {"log opened": (RunLog, "__init__"), "step logged": (RunLog, "step"), "optimizer step": (Policy, "step")}


def main(number: str, moment: str, which: str, *arguments: str) -> None:
    owner, name = MOMENTS[moment]
    whole, calls = getattr(owner, name), count(1)
    has_launcher = "TORCHELASTIC_RUN_ID" in os.environ
    is_first = os.environ.get("RANK", "0") == "0"

    @wraps(whole)
    def counted(*args, **settings):
        result = whole(*args, **settings)
        if next(calls) == int(which) and is_first:
            os.kill(os.getppid() if has_launcher else os.getpid(), int(number))
        return result

    setattr(owner, name, counted)
    app(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
