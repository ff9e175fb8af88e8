"""A solution's seconds are those in which it computes: a machine that is busy with other things takes nothing away from it."""

from threading import Timer

import psutil

from vlrl.verifiers.code import Solution

TIMEOUT_S = 2.0


def test_a_busy_machine_does_not_make_a_right_answer_wrong():
    with Solution("def f(x): return x + 1", entry_point="f", timeout_s=TIMEOUT_S, memory_mb=256) as solution:
        first = psutil.Process(solution._child._process.pid)
        processes = [first, *first.children(recursive=True)]
        for process in processes:
            process.suspend()
        resume = Timer(1.2 * TIMEOUT_S, lambda: [process.resume() for process in processes])
        resume.start()
        assert solution.call(1).value == 2
        resume.join()


def test_a_solution_that_sleeps_gets_no_more_time():
    with Solution("import time\ndef f(x): time.sleep(60)", entry_point="f", timeout_s=0.5, memory_mb=256) as solution:
        assert solution.call(1).error == "timeout"
        assert solution._deadline < solution._last_deadline, "its time was not extended"
