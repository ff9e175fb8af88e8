"""Log-probs of a pack's response tokens: the module that DeepSpeed wraps.

The support is the one sampling has: temperature, and minus infinity on banned ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlrl.models.attention import attention_plan, image_plan, window_plan
from vlrl.models.config_json import family_of
from vlrl.models.flash_attention import has_varlen
from vlrl.models.logprob_head import LogProbHead
from vlrl.models.packing import Pack
from vlrl.models.recurrence import convolution_width, recurrence_plan
from vlrl.models.routing_replay import Routes


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """What a forward says of a pack's N response tokens, without the filler's.

    logprobs: [N] with gradient if the forward had one; entropies: [N] in nats, without; both fp32. sequence: [N] int64, which of
    the pack's responses each token belongs to. routes: the experts that each token of the row went to, by router; empty for a
    dense model. zero: a scalar 0 that depends on every parameter. A loss adds it, so that a backward reaches the same parameters
    on every rank, whichever of them have images.
    """

    logprobs: Tensor
    entropies: Tensor
    sequence: Tensor
    routes: Routes
    zero: Tensor


def token_scores(pack: Pack, output: tuple[Tensor, Tensor], routes: Routes) -> TokenScores:
    """Names what a PackedModel returned, and leaves the filler's tokens out."""
    logprobs, entropies = output
    size = len(logprobs) - pack.filler
    return TokenScores(
        logprobs=logprobs[:size],
        entropies=entropies[:size],
        sequence=pack.sequence[:size],
        routes=routes,
        zero=0.0 * logprobs.sum(),
    )


class PackedModel(nn.Module):
    """A Qwen-VL whose forward takes a Pack.

    temperature: of the sampling; banned: ids that sampling never yields. The model's lm_head becomes one of log-probs.
    """

    banned: Tensor
    qwen: Any

    def __init__(self, qwen: nn.Module, *, temperature: float, banned: Sequence[int]):
        super().__init__()
        self.qwen = qwen
        self.temperature = temperature
        self._windows = family_of(self.qwen.config.model_type).windows
        qwen.lm_head = LogProbHead(self.qwen.lm_head.weight)
        never = torch.zeros(self.qwen.config.text_config.vocab_size, dtype=torch.bool)  # a sharded head has no length
        never[list(banned)] = True
        self.register_buffer("banned", never, persistent=False)
        self._convolution_width = convolution_width(qwen)

    def forward(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """[N] log-probs and [N] entropies (no gradient) of all the pack's targets, the filler's too, in fp32."""
        device = pack.tokens.device
        varlen = has_varlen(device, self.qwen.dtype)
        images = image_plan(pack.grid.prod(-1).tolist(), device=device, varlen=varlen)
        if self._windows:
            order = self._windows.order(self.qwen.config.vision_config, pack.grid.tolist())
            images |= window_plan(*order, device=device, varlen=varlen)
        features = self.qwen.model.get_image_features(pack.pixels, pack.grid, return_dict=True, **images)
        # mm_encoder_outputs: transformers puts the features at the image tokens, and the deeper ones (DeepStack) into the first
        # layers. plans: a model passes them on to the layers' operators that load_model sets.
        plans: dict[str, Any] = {"plan": attention_plan(pack.groups, device=device, varlen=varlen)}
        if self._convolution_width:
            plans["recurrence"] = recurrence_plan(pack.groups, width=self._convolution_width, device=device)
        hidden = self.qwen.model(
            input_ids=pack.tokens[None],
            position_ids=pack.positions[:, None],
            mm_encoder_outputs={"image": features},
            use_cache=False,
            **plans,
        ).last_hidden_state[0, pack.predictors]
        temperature = torch.full((len(pack.targets),), self.temperature, device=hidden.device)
        return self.qwen.lm_head(hidden, pack.targets, temperature, self.banned)
