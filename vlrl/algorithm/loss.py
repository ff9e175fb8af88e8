"""The policy loss of one pack: its share of a mini-batch's mean over rollouts of means over tokens.

A pack holds whole sequences, as many as fit in one micro-batch. Each pack divides by the mini-batch's global count of scored
rollouts, so the losses of packs add up to the mini-batch's loss however it was split over micro-batches and ranks. Objective:
arXiv 2511.20347, eq. 5; the weight against the engine is not in the paper.
"""

from dataclasses import dataclass

from torch import Tensor

from vlrl.algorithm.gates import Gate
from vlrl.algorithm.ratios import k3, log_ratio, sequence_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTokens:
    """What the loss saw of a pack, detached, for the diagnostics.

    log_ratio: [N] of the policy to the old policy. engine_log_ratio: [N] of the old policy to the engine.
    advantages: [S]. sequence: [N].
    """

    log_ratio: Tensor
    engine_log_ratio: Tensor
    advantages: Tensor
    sequence: Tensor


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    engine_logp: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    *,
    num_scored: int,
    gate: Gate,
    tis_cap: float,
    tis_floor: float = 0.0,
    drop_outside: bool = False,
    denominator: float | None = None,
    reference_logp: Tensor | None = None,
    kl_coefficient: float = 0.0,
) -> tuple[Tensor, LossTokens]:
    """-1/num_scored * sum over sequences of the mean over tokens of (w * f(r) * advantage - kl_coefficient * k3).

    logp, old_logp, engine_logp, reference_logp: [N] log-probs of the sampled tokens under the policy being updated (the only one
    with a gradient), the policy at the start of the step, the engine that sampled, and the reference. advantages: [S].
    sequence: [N] int64 in 0..S-1; a sequence lies whole in one pack. r = exp(logp - old_logp); w = min(exp(old_logp -
    engine_logp), tis_cap), a constant, corrects for an engine that samples from slightly other probabilities.

    Pass no rollout that could not be scored. num_scored counts the scored rollouts of the mini-batch over all packs and ranks,
    so it also counts those left out for having no advantage. A pack without tokens gives 0, still connected to logp.

    drop_outside: tokens whose w is under tis_floor or above tis_cap count nothing (IcePop's mask, 2510.18855)
    instead of being capped. denominator: the sum over all tokens is divided by it, instead of means over sequences: the
    mini-batch's number of tokens (DAPO, 2503.14476, eq. 8) or a constant (Dr. GRPO, 2503.20783).
    """
    assert num_scored >= 1, "a mini-batch without a scored rollout has no loss; skip its optimizer step on all ranks"
    assert kl_coefficient == 0 or reference_logp is not None, "a KL term needs the reference's log-probs"
    num_sequences = len(advantages)
    policy_log_ratio = log_ratio(logp, old_logp.detach())
    engine_log_ratio = log_ratio(old_logp, engine_logp).detach()
    advantage = advantages.float()[sequence]
    weight = engine_log_ratio.exp()
    inside = (weight >= tis_floor) & (weight <= tis_cap)
    weight = weight * inside if drop_outside else weight.clamp(max=tis_cap)
    objective = weight * gate(policy_log_ratio, advantage, sequence, num_sequences) * advantage
    if reference_logp is not None:
        objective = objective - kl_coefficient * k3(log_ratio(reference_logp, logp))
    if denominator is None:
        loss = -sequence_mean(objective, sequence, num_sequences).sum() / num_scored
    else:
        loss = -objective.sum() / denominator
    tokens = LossTokens(
        log_ratio=policy_log_ratio.detach(), engine_log_ratio=engine_log_ratio, advantages=advantages, sequence=sequence
    )
    return loss, tokens
