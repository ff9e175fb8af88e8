"""TRL's update on given rollouts: padded rows, an image for every sample, its fused head, loss_type sapo.

The optimizer is torch's fused AdamW, as by default there. TRL's own code computes log-probs and loss; its trainer is replaced by
the attributes that they read, since its constructor wants a data set and generates by itself.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import vlrl.models.cuda_wheels  # noqa: F401
from vlrl.models.processor import EncodedPrompt
from vlrl.types import Group


class TrlPath:
    """batch: samples of one forward. taus: of SAPO's gate, above and below 0."""

    def __init__(
        self,
        model: str,
        *,
        dtype: torch.dtype,
        batch: int,
        image_token: int,
        device: str,
        taus: tuple[float, float],
        gradient_checkpointing: bool = False,
    ):
        from transformers import AutoModelForImageTextToText
        from trl import GRPOTrainer
        from trl.trainer.utils import add_fused_lm_head

        self.model = (
            AutoModelForImageTextToText.from_pretrained(model, dtype=dtype, attn_implementation="sdpa").to(device).train()
        )
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        add_fused_lm_head(self.model, outputs=("log_probs", "entropy"))
        self.batch, self.image_token, self.device = batch, image_token, device
        self.trainer = SimpleNamespace(
            args=SimpleNamespace(
                sapo_temperature_pos=taus[0], sapo_temperature_neg=taus[1], use_bias_correction_kl=False, delta=None
            ),
            accelerator=SimpleNamespace(
                reduce=lambda value, **_: value,
                gather=lambda value: value,
                autocast=nullcontext,
                num_processes=1,
                is_main_process=True,
            ),
            model=SimpleNamespace(training=True),
            loss_type="sapo",
            importance_sampling_level="token",
            epsilon_low=0.2,
            epsilon_high=0.2,
            beta=0.0,
            use_vllm=False,
            off_policy_mask_threshold=None,
            top_entropy_quantile=1.0,
            aux_loss_enabled=False,
            _entropy_bonus_enabled=False,
            _metrics={"train": defaultdict(list)},
        )
        self.trainer._get_per_token_logps_and_entropies = partial(GRPOTrainer._get_per_token_logps_and_entropies, self.trainer)
        self.loss = partial(GRPOTrainer._compute_loss, self.trainer)
        self.optimizer: torch.optim.Optimizer | None = None

    def batches(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """Padded batches of whole samples, as TRL's trainer buffers them before its steps."""
        samples = [
            (group.prompt.encoded, sample.rollout.tokens, sample.advantage) for group in groups for sample in group.samples
        ]
        return [self._padded(samples[start : start + self.batch]) for start in range(0, len(samples), self.batch)]

    def backward(self, batches: Sequence[dict[str, Any]]) -> float:
        """Gradients of all batches as one mini-batch. Returns its loss."""
        self.trainer.current_gradient_accumulation_steps = len(batches)
        return sum(self._backward_one(batch) for batch in batches)

    def update(self, batches: Sequence[dict[str, Any]], *, lr: float) -> float:
        """One optimizer step."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.0, fused=True)
        loss = self.backward(batches)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def named_gradients(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                yield name, parameter.grad

    def _backward_one(self, batch: dict[str, Any]) -> float:
        here = {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        loss = self.loss(self.model, here)
        loss.backward()
        return loss.item()

    def _padded(self, samples: Sequence[tuple[EncodedPrompt, Sequence[int], float]]) -> dict[str, Any]:
        prompts = [prompt.tokens for prompt, _, _ in samples]
        responses = [torch.tensor(tokens) for _, tokens, _ in samples]
        prompt_ids, prompt_mask = _pad(prompts, left=True)
        completion_ids, completion_mask = _pad(responses, left=False)
        batch: dict[str, Any] = {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
            "advantages": torch.tensor([advantage for _, _, advantage in samples]),
            "num_items_in_batch": completion_mask.sum(),
        }
        if any(len(prompt.grid) for prompt, _, _ in samples):
            whole = torch.cat([prompt_ids, completion_ids], dim=1)
            batch |= {
                "pixel_values": torch.cat([prompt.pixels for prompt, _, _ in samples]),
                "image_grid_thw": torch.cat([prompt.grid for prompt, _, _ in samples]),
                "num_images": [len(prompt.grid) for prompt, _, _ in samples],
                "mm_token_type_ids": (whole == self.image_token).int(),
            }
        return batch


def _pad(rows: Sequence[Tensor], *, left: bool) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    padded = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), None) if left else slice(0, len(row))
        padded[number, place], mask[number, place] = row, 1
    return padded, mask
