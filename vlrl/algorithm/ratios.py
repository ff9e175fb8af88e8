"""What two policies say of the same tokens, and means over sequences of unequal length.

Every log-ratio of the loss and of the diagnostics is made here, in fp32 and bounded, so that no exponential overflows.
Layout everywhere: N tokens lie flat, in any order, and `sequence` [N] int64 says which of S sequences each belongs to.
"""

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0
"""fp32 exp overflows above 88.7, and its gradient is then NaN. Beyond e**20 a token has no gradient, even under gates that
never close: pg, and GRPO with a negative advantage."""


def log_ratio(logp: Tensor, base_logp: Tensor) -> Tensor:
    """logp - base_logp [N], in fp32, clamped to +-LOG_RATIO_BOUND."""
    return (logp.float() - base_logp.float()).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def k3(log_ratio: Tensor) -> Tensor:
    """r - 1 - log r [N], r = p/q: over tokens sampled from q, an unbiased and never negative estimate of KL(q || p)."""
    return torch.expm1(log_ratio) - log_ratio


def sequence_mean(values: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """The mean [S] of values [N] over each sequence's own tokens; 0 for a sequence without tokens."""
    totals = values.new_zeros(num_sequences).index_add(0, sequence, values)
    return totals / torch.bincount(sequence, minlength=num_sequences).clamp(min=1)
