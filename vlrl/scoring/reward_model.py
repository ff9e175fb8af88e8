"""A reward model in a process of its own: started once, at its first question, and again if it dies."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.common.service_settings import RewardModelConfig
from vlrl.sandbox.processes import Child
from vlrl.scoring.service import Failed, Replies
from vlrl.types import Status


class RewardModel:
    """The backend of a Service with one thread, which owns the process."""

    identity = ""

    def __init__(self, config: RewardModelConfig, place: str):
        self.place, self.batch = place, config.batch
        self._config = config
        self._process: Child | None = None

    def check(self) -> None:
        """Raises ValueError if the model cannot be loaded. Stops the process again."""
        try:
            self._start()
        except Failed as failed:
            raise ValueError(failed.detail) from None
        finally:
            self.close()

    def ask(self, contents: Sequence[Mapping[str, Any]]) -> Replies:
        process = self._process or self._start()
        reply = self._receive(process, json.dumps(list(contents)).encode(), self._config.timeout_s)
        found = [each if isinstance(each, float) else Failed(f"{self.place}: {each}") for each in reply]
        return Replies(found=found)

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process = None

    def _start(self) -> Child:
        """Starts the process and waits until the model is loaded. Raises Failed."""
        config = self._config
        threads = str(config.threads)
        env = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        argv = [sys.executable, "-m", "vlrl.scoring.reward_model_child", config.model_dump_json()]
        self._process = Child(argv, limits={}, env=env)
        loaded = self._receive(self._process, b"[]", config.start_s)
        if loaded:
            self.close()
            raise Failed(f"{self.place}.model: {config.model} {loaded}", is_outage=True)
        return self._process

    def _receive(self, process: Child, line: bytes, wait_s: float) -> Any:
        """The reply to a line. Raises Failed, and ends the process, if there is none."""
        try:
            process.send(line)
            return json.loads(process.receive(time.monotonic() + wait_s))
        except (EOFError, OSError, ValueError) as error:
            code = process.kill()
            self._process = None
            is_late = isinstance(error, TimeoutError)
            said = f"no reply in {wait_s:g} s" if is_late else f"its process ended with exit code {code}"
            status = Status.TIMEOUT if is_late else Status.ERROR
            raise Failed(f"{self.place}: {said}", status=status, requests=1, is_outage=True) from None
