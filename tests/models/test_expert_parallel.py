"""Experts dealt over two ranks: the same log-probs and updates, the whole model's weights, a checkpoint that goes on."""

from tests.loop import on_two_ranks


def test_experts_dealt_over_two_ranks_train_as_they_do_on_each(any_moe, pictures, tmp_path):
    printed = on_two_ranks("tests.models.expert_parallel_on_ranks", any_moe, ",".join(pictures), tmp_path / "saved")
    assert all(each.rstrip().endswith("parallel") for each in printed)
