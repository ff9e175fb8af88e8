"""The reference of the KL term: the model from which the run samples first, frozen.

With LoRA it is the policy without its adapters, which needs no second model in memory.
"""

from typing import Protocol

import torch

from vlrl import config as cfg
from vlrl.distributed.ranks import Ranks
from vlrl.models.lora import set_adapters_aside
from vlrl.models.packed_model import TokenScores, token_scores
from vlrl.models.packing import Pack
from vlrl.trainer.policy import Policy, block_size, deepspeed_config, load_packed


class Reference(Protocol):
    def logprobs(self, pack: Pack) -> TokenScores:
        """Scores the pack's response tokens, without gradient."""


class FrozenModel:
    """The starting checkpoint, loaded beside the policy; sharded if the policy is."""

    def __init__(self, settings: cfg.PolicyConfig, model: str, *, ranks: Ranks, temperature: float, banned: list[int]):
        import deepspeed

        packed = load_packed(settings, model, ranks, temperature=temperature, banned=banned).requires_grad_(False)
        self.ranks = ranks
        if settings.zero_stage == 3:
            sharded = deepspeed_config(settings, block_size=block_size(settings, model))
            del sharded["optimizer"], sharded["gradient_clipping"]
            sharded["zero_optimization"].pop("offload_optimizer", None)  # with it DeepSpeed looks for one
            self.module, *_ = deepspeed.initialize(model=packed, config=sharded)
        else:
            self.module = packed

    def logprobs(self, pack: Pack) -> TokenScores:
        with torch.no_grad():
            pack = pack.to(self.ranks.device)
            return token_scores(pack, self.module(pack), {})


class WithoutAdapters:
    """The policy's own model with its adapters set aside. Routers choose for themselves, as in a model of its own."""

    def __init__(self, policy: Policy):
        self._policy = policy

    def logprobs(self, pack: Pack) -> TokenScores:
        qwen = self._policy.engine.module.qwen
        set_adapters_aside(qwen, aside=True)
        try:
            with self._policy.routing.apart():
                return self._policy.logprobs(pack)
        finally:
            set_adapters_aside(qwen, aside=False)
