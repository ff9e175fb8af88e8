"""What a group costs by the formula, against what torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.models.helpers import message, parts_of
from vlrl.models.checkpoint_io import check_model
from vlrl.models.config_json import is_moe
from vlrl.models.flops import Cost
from vlrl.models.packing import pack_groups


def attention_flops(query, key, *_, **__):
    batch, heads, queries, width = query
    return 4 * batch * heads * queries * key[2] * width


FLASH = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}  # torch counts it on GPUs alone


@pytest.mark.parametrize(("images", "lengths"), [(0, [40] * 6), (1, [30] * 4), (3, [5] * 2)])
def test_a_group_costs_what_torch_counts(any_model, images, lengths, pictures):
    encoder, packed = parts_of(any_model)
    if is_moe(packed.qwen.config.text_config.to_dict()):
        packed.qwen.set_experts_implementation("eager")  # torch does not count grouped products
    prompt = encoder.encode(message("Compare the pictures, if there are any." * 4, *pictures[:images]))
    numbers = torch.Generator().manual_seed(0)
    responses = [torch.randint(20, 250, (length,), generator=numbers).tolist() for length in lengths]
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FLASH) as counted:
        packed(pack_groups([(prompt, responses)], encoder.filler()))
    assert Cost.of(check_model(any_model)).group(prompt, lengths) == pytest.approx(counted.get_total_flops(), rel=0.15)
