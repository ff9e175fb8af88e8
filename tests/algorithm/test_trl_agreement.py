"""TRL's own loss code, run on the same log-probs, gives the same loss and gradient wherever both define the same thing.

TRL works on padded [B, T] batches and knows no log-ratio clamp; its trainer is replaced by the few attributes that its loss
reads, with the log-probs given instead of computed.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from vlrl.algorithm.gates import grpo, gspo, gspo_token, sapo
from vlrl.algorithm.loss import policy_loss

CAP = 1.5
LOSSES = {
    "sapo": (sapo(0.8, 1.3), "sapo", "token", (0.2, 0.2)),
    "grpo": (grpo(0.2, 0.27), "grpo", "token", (0.2, 0.27)),
    "gspo": (gspo(0.03, 0.04), "grpo", "sequence", (0.03, 0.04)),
    "gspo_token": (gspo_token(0.03, 0.04), "grpo", "sequence", (0.03, 0.04)),
}


def trl_loss(logp, batch, *, loss_type, level, clip, kl, engine):
    """GRPOTrainer._compute_loss of one batch that is a whole optimizer step. logp: [B, T], padding included."""
    # Imported here, since it takes ten seconds of every process that collects the tests; torchvision's operators first.
    import vlrl.models.cuda_wheels  # noqa: F401, I001
    from trl import GRPOTrainer

    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logp, torch.zeros_like(logp), None),
        args=SimpleNamespace(sapo_temperature_pos=0.8, sapo_temperature_neg=1.3, use_bias_correction_kl=False, delta=None),
        accelerator=SimpleNamespace(reduce=lambda value, **_: value, gather=lambda value: value),
        model=SimpleNamespace(training=True),
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        beta=kl,
        use_vllm=engine,
        vllm_importance_sampling_correction=True,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    return GRPOTrainer._compute_loss(stand_in, None, batch)


@pytest.mark.parametrize(("kl", "engine"), [(0.0, False), (0.0, True), (0.2, True)])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_trls(name, kl, engine, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([5, 1, 8, 3, 8])
    mask = torch.arange(8) < lengths[:, None]
    old = -3 * torch.rand(5, 8, generator=generator)
    logp, sampled, reference = (old + scale * torch.randn(5, 8, generator=generator) for scale in (0.5, 0.3, 0.5))
    logp.requires_grad_()
    advantages = torch.tensor([1.2, -0.4, 0.0, -1.5, 0.7])
    gate, loss_type, level, clip = LOSSES[name]

    nothing = torch.zeros(5, 8, dtype=torch.long)
    batch = {"prompt_ids": nothing, "prompt_mask": nothing, "completion_ids": nothing, "completion_mask": mask.long()}
    batch |= {"advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference}
    batch |= {"importance_sampling_ratio": (old - sampled).exp().clamp(max=CAP)}
    theirs = trl_loss(logp, batch, loss_type=loss_type, level=level, clip=clip, kl=kl, engine=engine)

    ours, _ = policy_loss(
        logp[mask],
        old[mask],
        sampled[mask] if engine else old[mask],
        advantages,
        torch.arange(5)[:, None].expand(5, 8)[mask],
        num_scored=5,
        gate=gate,
        tis_cap=CAP,
        reference_logp=reference[mask],
        kl_coefficient=kl,
    )
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    gradients = [torch.autograd.grad(loss, logp)[0] for loss in (ours, theirs)]
    if name == "gspo_token" and engine:  # each token's gradient has its own weight, where TRL's is its sequence's mean
        gradients = [gradient.sum(1) for gradient in gradients]
    assert torch.allclose(*gradients, atol=1e-6) and gradients[0].abs().max() > 0.01
