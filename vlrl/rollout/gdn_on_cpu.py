"""Gated DeltaNet in vLLM on a CPU, where vLLM itself refuses: in fp32, and for heads of other sizes than 128.

vLLM calls it as an operator, which the first layer registers with the function that it finds then: `install` comes before an
engine is built. What vLLM can do stays vLLM's, and on a GPU nothing of this acts.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu, softplus

from vlrl.models.delta_rule import Chunked, next_token

_VLLM_S_HEAD = 128


def install() -> None:
    """Has vLLM's operator compute here what it would refuse."""
    from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention as vllm_s

    if getattr(vllm_s.cpu_gdn_attention_core, "is_vlrl_s", False):
        return
    assert not vllm_s._CPU_GDN_ATTENTION_OPS_REGISTERED, "an engine was built before"
    from vllm.forward_context import get_forward_context
    from vllm.utils.torch_utils import LayerNameType, _resolve_layer_name

    own = vllm_s.cpu_gdn_attention_core

    def cpu_gdn_attention_core(mixed_qkv: Tensor, b: Tensor, a: Tensor, core_attn_out: Tensor, layer_name: LayerNameType) -> None:
        """mixed_qkv: [T, 2 * key dim + value dim]; b, a: [T, value heads]; fills core_attn_out, [T, value heads, value head]."""
        context = get_forward_context()
        layer = context.no_compile_layers[_resolve_layer_name(layer_name)]
        if mixed_qkv.dtype == torch.bfloat16 and layer.head_k_dim == layer.head_v_dim == _VLLM_S_HEAD:
            own(mixed_qkv, b, a, core_attn_out, layer_name)
        elif context.attn_metadata is not None:  # None: vLLM measures its memory
            _compute(layer, context.attn_metadata[layer.prefix], mixed_qkv, b, a, core_attn_out)

    cpu_gdn_attention_core.is_vlrl_s = True  # type: ignore[attr-defined]
    # vLLM makes the operator's schema of annotations, which must be types and not names.
    cpu_gdn_attention_core.__annotations__ = own.__annotations__ | {"layer_name": LayerNameType}
    vllm_s.cpu_gdn_attention_core = cpu_gdn_attention_core


def _compute(layer: Any, batch: Any, mixed: Tensor, b: Tensor, a: Tensor, out: Tensor) -> None:
    """All sequences of a batch, those of one length side by side: first those that decode, a token each, then whole prompts.

    The samples of a prompt read the same tokens: it is computed once for those that follow one another.
    """
    assert batch.spec_sequence_masks is None, "speculative decoding is not supported"
    slots, ends = batch.non_spec_state_indices_tensor.long(), batch.non_spec_query_start_loc.tolist()
    by_length = defaultdict(list)
    for number in range(batch.num_decodes + batch.num_prefills):
        by_length[ends[number + 1] - ends[number]].append(number)
    for length, numbers in by_length.items():
        tokens = torch.tensor([ends[number] for number in numbers])[:, None] + torch.arange(length)
        if new := [number for number in numbers if number >= batch.num_decodes and not batch.has_initial_state[number]]:
            for cache in layer.kv_cache:
                cache[slots[new]] = 0
        inputs, own = (mixed[tokens], b[tokens], a[tokens]), slots[numbers]
        if length == 1 or len(new) < len(numbers):
            out[tokens] = _side_by_side(layer, *inputs, own)
            continue
        first, which = _distinct(*inputs)
        distinct = inputs[0][first], inputs[1][first], inputs[2][first]
        out[tokens] = _side_by_side(layer, *distinct, own[first])[which]
        for cache in layer.kv_cache:
            cache[own] = cache[own[first]][which]


def _distinct(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Of B sequences in a row, the first of each run of equal ones, and [B] to which run each belongs. inputs: [B, ...]."""
    begins = torch.ones(len(inputs[0]), dtype=torch.bool)
    begins[1:] = torch.stack([(x[1:] != x[:-1]).flatten(1).any(1) for x in inputs]).any(0)
    return begins.nonzero()[:, 0], begins.cumsum(0) - 1


def _side_by_side(layer: Any, mixed: Tensor, b: Tensor, a: Tensor, slots: Tensor) -> Tensor:
    """[B, S, value heads, value head] of B sequences' next S tokens, whose caches it moves on.

    The caches of all slots: the convolution's last inputs [slots, width - 1, dim], and the state, [slots, heads, key, value] in
    spite of its shape.
    """
    conv, state = layer.kv_cache
    state = state.view(*state.shape[:2], state.shape[3], state.shape[2])
    inputs = torch.cat([conv[slots].to(mixed), mixed], dim=1)
    conv[slots] = inputs[:, -conv.shape[1] :].to(conv)
    weight = getattr(layer.conv1d, "_cpu_unpacked_conv_weight", layer.conv1d.weight)
    weight = weight.reshape(len(weight), 1, -1)
    mixed = silu(conv1d(inputs.mT, weight, layer.conv1d.bias, groups=len(weight))).mT.flatten(0, 1)
    keys, values = layer.key_dim // layer.tp_size, layer.value_dim // layer.tp_size
    query, key, value = mixed.split([keys, keys, values], dim=-1)
    query, key = (x.unflatten(-1, (-1, layer.head_k_dim)) for x in (query, key))
    value = value.unflatten(-1, (-1, layer.head_v_dim))
    g = -layer.A_log.float().exp() * softplus(a.flatten(0, 1).float() + layer.dt_bias)
    beta = b.flatten(0, 1).sigmoid()
    held, length = state[slots].float(), inputs.shape[1] - conv.shape[1]
    if length == 1:
        out = next_token(query, key, value, g, beta, held)
    else:
        rule = Chunked.of([length] * len(slots), mixed.device)
        out, held = rule(query, key, value, g, beta, states=held, last=True)
    state[slots] = held.to(state)
    return out.unflatten(0, (len(slots), -1))
