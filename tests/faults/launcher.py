"""The command with faults in it: python -m tests.faults.launcher INJECTIONS ARGUMENTS... runs `vlrl ARGUMENTS...`."""

import json
import os
import sys

from tests.faults.injection import Injection, inject
from vlrl.cli.main import app

if __name__ == "__main__":
    os.setpgrp()  # a Ctrl-C is sent to the run's own group
    for each in json.loads(sys.argv[1]):
        inject(Injection(**each))
    app(sys.argv[2:])
