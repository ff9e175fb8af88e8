"""What every phase of a run needs: its inputs and the model's encoder, and this process's share of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vlrl import config as cfg
from vlrl.common.fingerprint import weights_fingerprint
from vlrl.config import Config
from vlrl.distributed.ranks import Ranks
from vlrl.inputs import Inputs, open_each, train_rows
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.flops import Cost
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.tasks import load_task
from vlrl.types import Convention, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Inputs):
    """A checked run: its inputs, this process's place, and the model's encoder.

    weights: a fingerprint of config.model; filler: the image prompt that gives a pass a vision tower; banned: ids that sampling
    never yields; cost: of computing a group; rollbacks: how often the run has gone back to a checkpoint, each time with other
    sampling seeds.
    """

    ranks: Ranks
    weights: str
    encoder: Encoder
    filler: EncodedPrompt
    banned: list[int]
    cost: Cost
    rollbacks: int = 0

    @property
    def coordinates(self) -> Convention:
        """How the model gives places in a picture, and prompts ask for them."""
        return self.encoder.family.coordinates

    @property
    def identity(self) -> dict[str, Any]:
        return self.resume_identity(self.ranks.size)

    @property
    def origin(self) -> dict[str, Any]:
        """All that determines the model that the first step samples from. A cold start of the same origin is reused.

        How the policy lies on its ranks is not among it.
        """
        settings = self.config.model_dump(
            mode="json", include={"model", "template_kwargs", "seed", "mixture", "images", "coldstart"}
        )
        on_ranks = {"zero_stage", "expert_parallel", "offload_optimizer", "max_tokens_per_micro_batch"}
        policy = self.coldstart_policy.model_dump(mode="json", exclude=on_ranks)
        lora = {"lora": self.config.lora.model_dump(mode="json", exclude={"sync"})} if self.config.lora else {}
        return {"weights": self.weights, **self.contents, "policy": policy, **lora, **settings}

    @property
    def coldstart_policy(self) -> cfg.PolicyConfig:
        """The policy's settings with the cold start's rate, which stays as it is after the warm-up."""
        settings = self.config.coldstart
        rate = {"lr": settings.lr, "warmup_steps": settings.warmup_steps, "min_lr_ratio": 1.0}
        return self.config.policy.model_copy(update=rate)

    def replica(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], set[int]]:
        """The prompts that this rank's engine samples, and the slots that this rank scores and trains.

        Each rank owns every size-th group; the ranks of one tensor-parallel engine sample one another's.
        """
        size, width = self.ranks.size, self.config.ranks_per_engine
        owner = {prompt.slot: number % size for number, prompt in enumerate(prompts)}
        here = self.ranks.rank // width
        sampled = [prompt for prompt in prompts if owner[prompt.slot] // width == here]
        return sampled, {slot for slot, rank in owner.items() if rank == self.ranks.rank}


def open_run(config: Config, ranks: Ranks) -> Run:
    """Opens everything that the run file names. ValueError, one sentence each, for what can't be used."""
    tasks = open_each({name: partial(load_task, mix.task or name, config.task_folders) for name, mix in config.mixture.items()})
    rows = open_each({name: partial(train_rows, name, mix) for name, mix in config.mixture.items()})
    model = check_model(config.model)
    encoder = load_encoder(config.model, config.images, config.template_kwargs)
    return Run(
        config=config,
        ranks=ranks,
        tasks=tasks,
        rows=rows,
        weights=weights_fingerprint(config.model),
        encoder=encoder,
        filler=encoder.filler(),
        banned=encoder.banned_tokens(model["text_config"]["vocab_size"]),
        cost=Cost.of(model),
    )
