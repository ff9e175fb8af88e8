"""A heartbeat between ranks: a rank that is gone, hangs or fails ends the run on all hosts, with a sentence that names it.

Each rank writes its news to the launcher's store once a second, in a thread that no collective can block. The first rank reads
all of them and writes a digest; the others read only that, so that the traffic grows with the number of ranks, not its square. A
second thread judges by this machine's monotonic clock when news last arrived; no clocks are compared. The store is the one at
MASTER_ADDR:MASTER_PORT: under torchrun it is the first host's launcher, which outlives its ranks, so that their last words can
be read; under other launchers it is the first rank itself.
"""

import json
import os
import shlex
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn

from vlrl.distributed.status import StatusFile, own_news

LOST = 3
"""The exit code of a rank that ends because another one was lost or failed."""

Verdict = tuple[int, str]
"""The rank that ends the run, and the sentence about it."""

_PERIOD_S = 1.0
_BEATS_S = 8 * _PERIOD_S
"""How long a rank may be silent once a collective has failed: then somebody is gone, and the question is only who."""


class Heartbeat:
    """This rank's part, from `__init__` to `end`.

    silent_s: how long a rank may be silent. wait_s: the time limit of collectives; a rank that others have waited for half of it
    is named in a warning. folder: the run's, where the first rank writes status.json; None for none.
    """

    def __init__(self, rank: int, size: int, *, silent_s: float, wait_s: float, folder: Path | None) -> None:
        self.rank, self.size = rank, size
        self._silent_s, self._wait_s = silent_s, wait_s
        self._host, self._launcher = socket.gethostname(), os.getppid()
        self._news: dict[int, dict[str, Any]] = {}
        """The newest news of every rank on the first, of the first on the others."""
        self._heard = dict.fromkeys(self._watched(), time.monotonic())
        self._suspects = False
        self._last_words: str | None = None
        self._verdict: Verdict | None = None
        self._checkpoint = 0
        self._store_is_gone = self._ending = False
        self._warned: set[tuple[int, str]] = set()
        self._sent, self._over = Event(), Event()
        self._status = StatusFile(folder, self._table) if folder and rank == 0 else None
        self._threads: list[Thread] = []
        if size > 1 and silent_s:
            self._threads = [Thread(target=each, name=each.__name__, daemon=True) for each in (self._talk, self._judge)]
        for thread in self._threads:
            thread.start()

    def end(self, sentence: str = "", *, is_consequence: bool = False) -> None:
        """Says goodbye to the others: the rank has finished, or failed with this sentence, and then they end too.

        is_consequence: the failure may be that of a collective, because another rank is gone. If the heartbeat finds out which,
        it ends this process with that sentence.
        """
        if self._threads:
            if is_consequence:
                self._suspects = True
                self._over.wait(2 * _BEATS_S)
            self._ending = True
            self._last_words = f"{self._own_name()} failed: {sentence}" if sentence else ""
            if self.rank == 0 and sentence:
                self._verdict = 0, self._last_words
            self._send_last_words()
            self._over.set()
        if self._status:
            self._status.end(sentence)

    def _send_last_words(self) -> None:
        """Waits until they are in the store; the first rank, which may hold it, also until the others have ended."""
        if self.rank and self._has_ended(0):
            return
        self._sent.clear()
        self._sent.wait(4 * _PERIOD_S)
        until = time.monotonic() + 4 * _PERIOD_S
        while self.rank == 0 and time.monotonic() < until and not all(self._has_ended(rank) for rank in self._heard):
            time.sleep(_PERIOD_S / 10)

    def _watched(self) -> list[int]:
        return list(range(1, self.size)) if self.rank == 0 else [0]

    def _has_ended(self, rank: int) -> bool:
        return self._news.get(rank, {}).get("end") is not None

    def _table(self) -> list[dict[str, Any]]:
        now = time.monotonic()
        others = [
            {"rank": rank, "host": "?", "pid": "?"} | self._news.get(rank, {}) | {"silent_s": now - self._heard[rank]}
            for rank in (self._watched() if self._threads else ())
        ]
        return [own_news(self.rank, self._host), *others]

    # The thread that talks: it may block in the store for as long as it likes.

    def _talk(self) -> None:
        from torch.distributed import PrefixStore, TCPStore

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        attempt = f"heartbeat/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        store, count = None, 0
        while not self._over.is_set():
            count += 1
            try:
                if store is None:
                    limit = timedelta(seconds=max(2.0, self._silent_s / 4))
                    store = PrefixStore(attempt, TCPStore(host, port, is_master=False, timeout=limit, wait_for_workers=False))
                is_last = self._last_words is not None
                self._exchange(store, count)
                if is_last:
                    self._sent.set()
            except (RuntimeError, ValueError):  # torch's errors of the store are RuntimeErrors
                store = None
                self._store_is_gone = _is_refused(host, port)
            self._over.wait(_PERIOD_S if self._last_words is None else _PERIOD_S / 10)

    def _exchange(self, store: Any, count: int) -> None:
        mine = own_news(self.rank, self._host)
        mine |= {"count": count, "suspects": self._suspects, "end": self._last_words}
        if self.rank == 0:
            there = [rank for rank in self._heard if rank in self._news or store.check([str(rank)])]
            for rank, news in zip(there, store.multi_get([str(rank) for rank in there]) if there else (), strict=True):
                self._hear(rank, json.loads(news))
            checkpoint = self._status.newest_checkpoint if self._status else 0
            store.set("0", json.dumps(mine | {"verdict": self._verdict, "checkpoint": checkpoint}))
        else:
            store.set(str(self.rank), json.dumps(mine))
            if self._news or store.check(["0"]):
                self._hear(0, json.loads(store.get("0")))
                self._verdict = self._verdict or self._news[0]["verdict"]  # a list by now
                self._checkpoint = self._news[0]["checkpoint"]

    def _hear(self, rank: int, news: dict[str, Any]) -> None:
        if news["count"] != self._news.get(rank, {}).get("count"):
            self._news[rank], self._heard[rank] = news, time.monotonic()

    # The thread that judges: it never blocks.

    def _judge(self) -> None:
        woke = time.monotonic()
        while not self._over.wait(_PERIOD_S / 2):
            now = time.monotonic()
            if (slept := now - woke) > 2 * _PERIOD_S:  # this process was stopped, or C code held the GIL: nothing could arrive
                self._heard = {rank: at + slept for rank, at in self._heard.items()}
            woke = now
            if self._ending:
                continue
            if verdict := self._verdict or self._own_fault() or self._fault_of_another(now):
                self._end_run(*verdict)
            self._warn_of_late_ranks()

    def _own_fault(self) -> Verdict | None:
        if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != self._launcher:
            return self.rank, f"{self._own_name()} failed: its launcher, process {self._launcher}, has ended"
        return None

    def _fault_of_another(self, now: float) -> Verdict | None:
        for rank in self._heard:
            if words := self._news.get(rank, {}).get("end"):
                return rank, words
        watched = [rank for rank in self._heard if not self._has_ended(rank)]
        if self._store_is_gone and watched and self.rank:
            return 0, f"{self._named(0)} has ended, or its launcher has: its store is closed"
        suspects = self._suspects or any(news["suspects"] for news in self._news.values())
        limit = min(_BEATS_S, self._silent_s) if suspects else self._silent_s
        silent = {rank: now - self._heard[rank] for rank in watched if now - self._heard[rank] > limit}
        if not silent:
            return None
        rank = max(silent, key=silent.__getitem__)
        more = f"; so are {len(silent) - 1} other ranks" if len(silent) > 1 else ""
        return rank, f"{self._named(rank)} is gone or hangs: silent for {silent[rank]:.0f} s{more}"

    def _own_name(self) -> str:
        return f"rank {self.rank} ({self._host})"

    def _named(self, rank: int) -> str:
        news = self._news.get(rank)
        return f"rank {rank} ({news['host']}, last seen in: {news['phase']})" if news else f"rank {rank} (never heard from)"

    def _warn_of_late_ranks(self) -> None:
        """Names the ranks for which others have waited half of the time that they will wait."""
        table = self._table() if self.rank == 0 else []
        if not any(news.get("waits") and news["for_s"] > self._wait_s / 2 for news in table):
            return
        for news in table:
            place = news["rank"], news.get("phase", "")
            if not news.get("waits") and place not in self._warned:
                self._warned.add(place)
                where = f"in: {place[1]}, for {news['for_s']:.0f} s" if place[1] else "not heard from yet"
                _say(
                    f"warning: others wait for rank {place[0]} ({news['host']}), {where}; they give up after {self._wait_s:.0f} s"
                )

    def _end_run(self, culprit: int, sentence: str) -> NoReturn:
        """Prints the sentence, on one rank of each host, and ends this process once the others have had time to read it.

        While the others read, ranks that still live may train on and seal another checkpoint, so the sentence comes last.
        """
        self._verdict, self._last_words = (culprit, sentence), sentence
        time.sleep(1.5 * _PERIOD_S)
        if self._status:
            self._checkpoint = self._status.newest_checkpoint
        after = f"from the checkpoint of step {self._checkpoint}" if self._checkpoint else "from the beginning"
        again = f"Start it again on every host, it continues {after}: {_command()}"
        first_here = self.rank - int(os.environ.get("LOCAL_RANK", 0))
        if self.rank in (culprit, first_here + (culprit == first_here)):
            _say(f"vlrl: {sentence}. {again}")
        if self._status:
            self._status.end(f"{sentence}. {again}")
        time.sleep(1.5 * _PERIOD_S if self.rank == 0 else 0)
        os._exit(LOST)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _command() -> str:
    return "<launcher> -m vlrl.cli " + shlex.join(sys.argv[1:])


def _is_refused(host: str, port: int) -> bool:
    """Whether the host is there and nobody listens: the store's process has ended."""
    try:
        socket.create_connection((host, port), timeout=2 * _PERIOD_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
