"""Memory that runs out on one rank ends all of them, with a sentence that says what to set."""

import re

import pytest

from tests.loop import finished, started_on_ranks


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (
            "search",
            r"vlrl: memory ran out in a micro-batch of (4\d\d|[5-9]\d\d) tokens and \d+ image patches; "
            r"set policy.max_tokens_per_micro_batch to ([123]\d\d), which did fit \(CUDA out of memory\)",
        ),
        (
            "update",
            r"vlrl: memory ran out in a micro-batch of \d+ tokens and \d+ image patches; set "
            r"policy.max_tokens_per_micro_batch to a number below 4096, and run the same command again \(CUDA out of memory\)",
        ),
    ],
)
def test_memory_that_runs_out_in_a_backward_on_one_rank_ends_both_and_says_what_to_set(tiny_dense, pictures, where, sentence):
    ranks = started_on_ranks(2, "tests.trainer.out_of_memory_on_ranks", tiny_dense, ",".join(pictures), where)
    try:
        printed = finished(ranks[1], 2)
        assert re.search(sentence, printed), printed
        assert "ended well" not in finished(ranks[0], 2)
    finally:
        for each in ranks:
            each.kill()
