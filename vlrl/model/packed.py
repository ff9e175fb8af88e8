"""Log-probs of a pack's response tokens: the module that DeepSpeed wraps.

The support is the one sampling has: temperature, and minus infinity on banned ids. Logits are made in chunks of tokens and
made again in backward, so that [tokens, vocabulary] never exists.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlrl.model.pack import Pack


class PackedModel(nn.Module):
    """A Qwen3-VL whose forward takes a Pack.

    temperature: of the sampling; banned: ids that sampling never yields; head_chunk: tokens per chunk of logits.
    """

    banned: Tensor
    qwen: Any

    def __init__(self, qwen: nn.Module, *, temperature: float, banned: Sequence[int], head_chunk: int):
        super().__init__()
        self.qwen = qwen
        self.temperature = temperature
        self.head_chunk = head_chunk
        self.register_buffer("banned", torch.tensor(list(banned), dtype=torch.long), persistent=False)

    def forward(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """[N] log-probs and [N] entropies (no gradient) of the pack's targets, in fp32."""
        features = self.qwen.model.get_image_features(pack.pixels, pack.grid, return_dict=True)
        hidden = self.qwen.model(
            input_ids=pack.tokens[None],
            position_ids=pack.positions[:, None],
            mm_encoder_outputs={"image": features},
            use_cache=False,
            groups=pack.groups,
        ).last_hidden_state[0, pack.predictors]
        chunks = [
            checkpoint(self._head, part, targets, use_reentrant=False) if torch.is_grad_enabled() else self._head(part, targets)
            for part, targets in zip(hidden.split(self.head_chunk), pack.targets.split(self.head_chunk), strict=True)
        ]
        logprobs, entropies = zip(*chunks, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _head(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.qwen.lm_head(hidden).float() / self.temperature
        logprobs = logits.index_fill(1, self.banned, -torch.inf).log_softmax(dim=1)
        with torch.no_grad():
            entropy = torch.special.entr(logprobs.exp()).sum(dim=1)
        return logprobs.gather(1, targets[:, None])[:, 0], entropy
