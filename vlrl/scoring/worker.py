"""A scoring worker: python -m vlrl.scoring.worker FOLDER...

Reads items and replies two lines to each: "started" once the task's file is loaded, so that imports do not count as the
verifier's time, then the score, or the question that the verifier asks a service. A worker exits when its input ends or its
parent process exits.
"""

import sys
from functools import cache

from vlrl.sandbox.child_stdio import take_pipes
from vlrl.scoring.protocol import dump_result, load_item
from vlrl.tasks import load_task, score_or_question
from vlrl.types import Score, Status


def main(folders: list[str]) -> None:
    requests, replies = take_pipes(silent=False)
    loaded = cache(lambda name: load_task(name, folders))  # which reads the task's file and all that it imports

    def reply(line: bytes) -> None:
        replies.write(line + b"\n")
        replies.flush()

    for line in requests:
        item = load_item(line)
        try:
            task = loaded(item.task)
        except ValueError as error:
            reply(b"started")
            reply(dump_result(Score(reward=0.0, status=Status.ERROR, detail=str(error))))
            continue
        reply(b"started")
        reply(dump_result(score_or_question(task, item.response, item.row, item.replies)))


if __name__ == "__main__":
    main(sys.argv[1:])
