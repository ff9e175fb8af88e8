"""What a process says that it does: the phases that are announced, counted and timed anyway."""

import doctest

from vlrl.telemetry import phase
from vlrl.telemetry.clock import Clock
from vlrl.telemetry.progress import announce, progress


def test_the_examples_hold():
    assert doctest.testmod(phase).failed == 0


def test_an_announced_phase_lasts_until_the_next():
    announce("Loading the model", shown=False)
    assert phase.describe() == "Loading the model"
    announce("Starting vLLM", shown=False)
    assert (phase.describe(), phase.counted()) == ("Starting vLLM", None)


def test_a_timed_piece_of_a_counted_phase_is_named_with_the_count():
    announce("Before", shown=False)
    clock = Clock()
    with progress("Training", 9, done=2, shown=False) as tick, clock("time/step"):
        tick(1)
        with clock("time/generate"):
            assert phase.describe() == "Training 3/9, generate"
            with phase.within(phase.WAITING):
                assert phase.describe() == "Training 3/9, generate, waiting for other ranks"
        run = phase.counted()
        assert (run.name, run.done, run.total) == ("Training", 3, 9)
    assert phase.describe() == "Before"


def test_an_evaluation_within_the_training_is_what_the_rank_does_and_the_training_is_what_the_run_counts():
    with progress("Training", 9, shown=False), progress("Evaluating step 3", 40, shown=False):
        assert phase.describe() == "Evaluating step 3 0/40"
        assert phase.counted().name == "Training"


def test_a_phase_that_fails_is_over():
    announce("Before", shown=False)
    try:
        with phase.within("generate"):
            raise RuntimeError
    except RuntimeError:
        assert phase.describe() == "Before"


def test_the_time_left_is_by_the_rate_of_this_process_and_unknown_at_first():
    with phase.within("Training", done=6, total=10) as run:
        assert run.seconds_left is None
        run.done = 8
        run.since -= 20  # two steps in twenty seconds
        assert 20 <= run.seconds_left < 21
        run.done = 5  # a rollback
        assert run.seconds_left is None
