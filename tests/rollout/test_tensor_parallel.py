"""An engine that two ranks hold together, in bf16: fp32 logits, weights that follow under ZeRO-3, and one batch for both."""

import pytest

from tests.loop import on_two_ranks


@pytest.mark.slow
def test_two_ranks_hold_one_engine_that_follows_the_trainer_and_refuses_different_prompts(tiny_dense):
    printed = on_two_ranks("tests.rollout.tensor_parallel_on_ranks", tiny_dense)
    assert all("difference " in each for each in printed)
    assert all("the tensor-parallel ranks from 0 on submit different prompts; they must be the same" in each for each in printed)
