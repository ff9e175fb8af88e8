"""Loading on two ranks: the files' weights, and never more of them in a process than its share and a tensor."""

import pytest
import torch

from tests.conftest import TEXTS
from tests.loop import on_two_ranks
from vlrl.models.families.qwen3_vl_moe import QWEN3_VL_MOE
from vlrl.models.tiny import write_random


@pytest.mark.parametrize("kind", ["tiny_dense", "tiny_moe"])
def test_sharded_weights_are_the_files(request, kind):
    on_two_ranks("tests.models.loading_on_ranks", "equal", request.getfixturevalue(kind))


@pytest.mark.slow
def test_a_rank_never_holds_the_whole_model_while_it_loads_its_share(tiny_moe, tmp_path):
    text, vision = QWEN3_VL_MOE.tiny_configs()
    text |= {"hidden_size": 512, "moe_intermediate_size": 384, "num_experts": 16, "num_hidden_layers": 8}
    write_random(
        tmp_path / "model", TEXTS, QWEN3_VL_MOE, text, vision | {"out_hidden_size": 512}, tied=True, dtype=torch.bfloat16
    )
    on_two_ranks("tests.models.loading_on_ranks", "lean", tmp_path / "model", tiny_moe)
