"""Gates: what a token's probability ratio r counts for in the objective f(r) * advantage.

SAPO (arXiv 2511.20347), GRPO, GSPO (arXiv 2507.18071) and the plain policy gradient (pg) are one loss with different gates. All
have slope 1 at r = 1, so on-policy they give the same gradient. They differ in how they close as r moves away: SAPO softly and
GRPO at once, for each token; GSPO at once for a whole sequence; pg never. Only the slope f' trains; the value f is logged as the
loss and drawn in the report.

To add a gate: a function here, its name in `make_gate` and in config.AlgorithmConfig.gate.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlrl.algorithm.ratios import sequence_mean

Gate = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(log_ratio [N], advantage [N] of each token's sequence, sequence [N], num_sequences) -> f [N]. log_ratio is clamped to
ratios.LOG_RATIO_BOUND."""


def sapo(tau_pos: float | Sequence[float] = 1.0, tau_neg: float | Sequence[float] = 1.05) -> Gate:
    """f(r) = 4/tau * sigmoid(tau * (r - 1)), tau = tau_pos if the advantage is above 0, else tau_neg.

    A tau is one for all, or one for each of the S sequences. A higher one closes sooner. ValueError if one is not positive.
    """
    for name, tau in (("tau_pos", tau_pos), ("tau_neg", tau_neg)):
        if not all(each > 0 for each in ([tau] if isinstance(tau, float | int) else tau)):
            raise ValueError(f"{name} of the sapo gate is {tau}; it must be above 0 (the paper uses 1.0 and 1.05)")

    def gate(log_ratio: Tensor, advantage: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
        pos, neg = (log_ratio.new_tensor(tau).expand(num_sequences)[sequence] for tau in (tau_pos, tau_neg))
        tau = torch.where(advantage > 0, pos, neg)
        return 4 / tau * torch.sigmoid(tau * (log_ratio.exp() - 1))

    return gate


def pg() -> Gate:
    """f(r) = r: importance sampling alone. SAPO's gate approaches it, up to a constant, as tau goes to 0."""

    def gate(log_ratio: Tensor, advantage: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
        return log_ratio.exp()

    return gate


def grpo(clip_low: float = 0.2, clip_high: float = 0.27) -> Gate:
    """f(r) = min(r, 1 + clip_high) if the advantage is above 0, else max(r, 1 - clip_low)."""

    def gate(log_ratio: Tensor, advantage: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
        return _clip(log_ratio.exp(), advantage, clip_low, clip_high)

    return gate


def gspo(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Gate:
    """GRPO's clip on the sequence's ratio s = exp(mean of log r)."""

    def gate(log_ratio: Tensor, advantage: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
        log_s = sequence_mean(log_ratio, sequence, num_sequences)[sequence]
        return _clip(log_s.exp(), advantage, clip_low, clip_high)

    return gate


def gspo_token(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Gate:
    """GSPO with each token's gradient passed straight through: as `gspo` if a sequence's tokens all weigh the same."""

    def gate(log_ratio: Tensor, advantage: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
        log_s = sequence_mean(log_ratio.detach(), sequence, num_sequences)[sequence]
        straight_through = log_ratio - log_ratio.detach()  # value 0, gradient 1
        return _clip((log_s + straight_through).exp(), advantage, clip_low, clip_high)

    return gate


def _clip(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> Tensor:
    return torch.where(advantage > 0, ratio.clamp(max=1 + clip_high), ratio.clamp(min=1 - clip_low))


def make_gate(
    name: str, *, tau_pos: float | Sequence[float], tau_neg: float | Sequence[float], clip_low: float, clip_high: float
) -> Gate:
    """The gate called `name`, built from the settings that it uses. ValueError if there is none of that name."""
    makers = {
        "sapo": lambda: sapo(tau_pos, tau_neg),
        "grpo": lambda: grpo(clip_low, clip_high),
        "gspo": lambda: gspo(clip_low, clip_high),
        "gspo_token": lambda: gspo_token(clip_low, clip_high),
        "pg": pg,
    }
    if name not in makers:
        raise ValueError(f"no gate {name!r}; known gates: {', '.join(makers)}")
    return makers[name]()
