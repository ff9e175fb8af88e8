"""Group packing gives what separate sequences through transformers' own attention give: log-probs, gradients, positions."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.models.helpers import message, parts_of
from vlrl.models.packed_model import PackedModel
from vlrl.models.packing import pack_groups, split_to_budget


def ragged_groups(encoder, pictures):
    prompts = [
        encoder.encode(message("Which digit is this?", pictures[0])),
        encoder.encode(message("What is 12 + 34?")),
        encoder.encode(message("Compare.", pictures[1], pictures[2])),
    ]
    numbers = torch.Generator().manual_seed(1)
    lengths = [(5, 1, 9), (7, 7), (3, 12, 6, 2)]
    return [
        (prompt, [torch.randint(20, 250, (length,), generator=numbers).tolist() for length in sizes])
        for prompt, sizes in zip(prompts, lengths, strict=True)
    ]


def plain_model(checkpoint):
    """The checkpoint as transformers runs it: attention by SDPA, positions of its own."""
    return AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa").train()


def separate_logprobs(qwen, packed: PackedModel, prompt, response):
    """[L] log-probs of one response after its prompt, as a plain sequence."""
    tokens = torch.cat([prompt.tokens, torch.tensor(response)])[None]
    kinds = (tokens == qwen.config.image_token_id).int()
    images = {"pixel_values": prompt.pixels, "image_grid_thw": prompt.grid} if len(prompt.grid) else {}
    logits = qwen(input_ids=tokens, attention_mask=torch.ones_like(tokens), mm_token_type_ids=kinds, **images).logits
    logits = logits[0, len(prompt.tokens) - 1 : -1].float() / packed.temperature
    logits = logits.masked_fill(packed.banned, -torch.inf)
    return logits.log_softmax(1).gather(1, tokens[0, len(prompt.tokens) :, None])[:, 0]


def gradients(model, loss):
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "gradient_checkpointing": True}])
def test_packed_logprobs_and_gradients_equal_separate_sequences(any_model, options, pictures):
    encoder, packed = parts_of(any_model, **options)
    plain = plain_model(any_model)
    groups = ragged_groups(encoder, pictures)
    together, _ = packed(pack_groups(groups, encoder.filler()))
    apart = torch.cat(
        [separate_logprobs(plain, packed, prompt, response) for prompt, responses in groups for response in responses]
    )
    weights = torch.randn(len(together), generator=torch.Generator().manual_seed(2))
    assert relative(together, apart) <= 1e-5
    assert relative(gradients(packed, (together * weights).sum()), gradients(plain, (apart * weights).sum())) <= 1e-5


def test_a_group_split_over_passes_has_the_same_logprobs_and_order(tiny_dense, pictures):
    encoder, packed = parts_of(tiny_dense)
    groups = ragged_groups(encoder, pictures)
    sizes = [(len(prompt.tokens), [len(response) for response in responses]) for prompt, responses in groups]
    passes = [[(groups[n][0], groups[n][1][part]) for n, part in items] for items in split_to_budget(sizes, budget=40)]
    assert len(passes) > 3
    with torch.no_grad():
        whole, _ = packed(pack_groups(groups, encoder.filler()))
        packs = [pack_groups(items, encoder.filler()) for items in passes]
        split = torch.cat([packed(pack)[0][: len(pack.targets) - pack.filler] for pack in packs])
    assert relative(split, whole) <= 1e-5


def test_a_pack_without_images_ends_in_a_filler_that_changes_no_logprob(tiny_dense, pictures):
    encoder, packed = parts_of(tiny_dense)
    text, image = (encoder.encode(message("What is 1 + 2?")), [[30, 31]]), (encoder.encode(message("?", pictures[0])), [[40]])
    with torch.no_grad():
        alone = pack_groups([text], encoder.filler())
        beside_an_image = pack_groups([text, image], encoder.filler())
        assert (alone.filler, beside_an_image.filler) == (1, 0)
        torch.testing.assert_close(packed(alone)[0][:2], packed(beside_an_image)[0][:2], rtol=0, atol=1e-5)


def test_an_empty_pack_still_runs_every_part_of_the_model(any_model):
    encoder, packed = parts_of(any_model)
    pack = pack_groups([], encoder.filler())
    logprobs, _ = packed(pack)
    assert pack.num_sequences == 0 and pack.filler == len(logprobs) == 1
    (0.0 * logprobs.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in packed.parameters())


def test_positions_equal_transformers_rope_index(any_model, pictures):
    encoder, packed = parts_of(any_model)
    for images in [(), pictures[:1], pictures]:
        prompt = encoder.encode(message("Compare these.", *images))
        tokens = prompt.tokens[None]
        kinds = (tokens == packed.qwen.config.image_token_id).int()
        grid = prompt.grid if images else None
        expected, delta = packed.qwen.model.get_rope_index(tokens, mm_token_type_ids=kinds, image_grid_thw=grid)
        assert torch.equal(prompt.positions, expected[:, 0])
        assert prompt.next_position == len(prompt.tokens) + delta.item()


def test_banned_tokens_have_no_probability(tiny_dense):
    encoder, packed = parts_of(tiny_dense)
    prompt = encoder.encode(message("What is 1 + 2?"))
    with torch.no_grad():
        logprobs, entropy = packed(pack_groups([(prompt, [[int(packed.banned.nonzero()[-1]), 30]])], encoder.filler()))
    assert logprobs[0] == -torch.inf and logprobs[1].isfinite() and entropy.isfinite().all()


def test_a_video_part_is_refused(tiny_dense):
    encoder, _ = parts_of(tiny_dense)
    with pytest.raises(ValueError, match="'video' part; vlrl takes text and images only"):
        encoder.encode([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}])


@pytest.mark.parametrize("frozen", [False, True])
def test_each_prompt_s_tokens_and_patches_are_computed_once_for_all_its_responses(tiny_dense, pictures, frozen):
    encoder, packed = parts_of(tiny_dense)
    packed.qwen.model.visual.requires_grad_(not frozen)
    groups = ragged_groups(encoder, pictures)
    seen = {"patches": 0, "tokens": 0}

    def count(what, size):
        return lambda _, args, kwargs: seen.update({what: seen[what] + size(args[0])})

    packed.qwen.model.visual.register_forward_pre_hook(count("patches", len), with_kwargs=True)
    first = packed.qwen.model.language_model.layers[0]
    first.register_forward_pre_hook(count("tokens", lambda hidden: hidden.shape[1]), with_kwargs=True)
    logprobs, _ = packed(pack_groups(groups, encoder.filler()))
    logprobs.sum().backward()
    assert seen["patches"] == sum(len(prompt.pixels) for prompt, _ in groups)
    assert seen["tokens"] == sum(len(prompt.tokens) + sum(map(len, responses)) for prompt, responses in groups)
