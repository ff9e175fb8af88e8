"""A scoring worker: python -m vlrl.scoring.worker FOLDER...

Reads items and answers each with two lines: "started" once the task's file is loaded, so that the verifier's clock does not
count imports, then the score. It ends with its input, or with the process that feeds it.
"""

import sys

from vlrl.sandbox.child_stdio import take_pipes
from vlrl.scoring.protocol import dump_score, load_item
from vlrl.tasks import load_task, verdict
from vlrl.types import Score, Status


def main(folders: list[str]) -> None:
    requests, replies = take_pipes(silent=False)

    def say(line: bytes) -> None:
        replies.write(line + b"\n")
        replies.flush()

    for line in requests:
        item = load_item(line)
        try:
            task = load_task(item.task, folders)
        except ValueError as error:
            say(b"started")
            say(dump_score(Score(reward=0.0, status=Status.ERROR, detail=str(error))))
            continue
        say(b"started")
        say(dump_score(verdict(task, item.response, item.row)))


if __name__ == "__main__":
    main(sys.argv[1:])
