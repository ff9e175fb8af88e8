"""The trained model under DeepSpeed: log-probs, backward, step, and its weights by name.

The caller normalises the loss by the global count of its mini-batch. DeepSpeed averages gradients over ranks whatever
`scale_wrt_gas` says, so the loss is multiplied by the number of ranks here, and only here.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlrl import config as cfg
from vlrl.common.fingerprint import weights_fingerprint
from vlrl.distributed.ranks import Ranks
from vlrl.models.checkpoint_io import load_model, save_checkpoint
from vlrl.models.config_json import family_of
from vlrl.models.expert_parallel import expert_parallel_settings, expert_parallel_size, gather_experts, released_name
from vlrl.models.lora import adapters_of, add_adapters, in_peft_format, is_adapter, merged, plain_name, save_adapter
from vlrl.models.packed_model import PackedModel, TokenScores, token_scores
from vlrl.models.packing import Pack
from vlrl.models.processor import Encoder
from vlrl.models.routing_replay import Routing
from vlrl.models.sizes import ModelSizes, block_of
from vlrl.models.tensor_check import empty_model, unused_tensors
from vlrl.models.weight_files import download_once
from vlrl.trainer import policy_state
from vlrl.trainer.weight_change import Changes

logger = logging.getLogger(__name__)

_BUCKET_BYTES = 512 << 20


class Policy:
    """The model being trained.

    model: folder or hub name; updates: optimizer steps that the schedule is laid out for; temperature: the sampling's;
    banned: ids that sampling never yields; lora: trains adapters, and the model's own weights stay as they are. `version` counts
    the optimizer steps taken; `routing` is of its experts, if any; `max_tokens_per_micro_batch` is 0 until the token budget is
    chosen, and a patch of an image counts as `tokens_per_patch` in it; `lr_scale` multiplies the schedule's rate.
    """

    def __init__(
        self,
        settings: cfg.PolicyConfig,
        model: str,
        *,
        ranks: Ranks,
        updates: int,
        temperature: float,
        banned: list[int],
        lora: cfg.LoraConfig | None = None,
    ):
        import deepspeed

        self.ranks = ranks
        self.settings = settings
        self.version = 0
        self.lr_scale = 1.0
        self.max_tokens_per_micro_batch = (
            0 if settings.max_tokens_per_micro_batch == "auto" else settings.max_tokens_per_micro_batch
        )
        self.tokens_per_patch = 0.0
        packed = load_packed(settings, model, ranks, temperature=temperature, banned=banned, lora=lora)
        self.base, self._adapters = model, adapters_of(packed.qwen)
        self._fingerprint = ranks.broadcast(weights_fingerprint(model) if ranks.is_first else "") if lora else ""
        self.family = family_of(packed.qwen.config.model_type)
        experts = self.family.experts
        self.routing = Routing(packed, experts.router_class() if experts else None)
        config = deepspeed_config(settings, block_size=block_size(settings, model))
        if settings.expert_parallel > 1:
            preset = expert_parallel_settings(packed.qwen.config, settings.expert_parallel)
            config["expert_parallel"] = preset | config.get("expert_parallel", {})
        self._rate = _schedule(settings, updates)
        self.engine, *_ = deepspeed.initialize(
            model=packed,
            model_parameters=[parameter for parameter in packed.parameters() if parameter.requires_grad],
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: self.lr_scale * self._rate(n)),
            config=config,
        )
        list(policy_state.flats_of(self.engine))  # raises before the first step if no checkpoint can be made

    def forward(self, pack: Pack) -> TokenScores:
        """Scores the pack's response tokens, with gradient."""
        pack = pack.to(self.ranks.device)
        return token_scores(pack, self.engine(pack), dict(self.routing.choices))

    def logprobs(self, pack: Pack) -> TokenScores:
        """As `forward`, without gradient."""
        with torch.no_grad():
            return self.forward(pack)

    def backward(self, loss: Tensor) -> None:
        """Adds a micro-batch's gradients. loss: scalar, normalised by the global count of the mini-batch.

        ArithmeticError, before anything is changed, if the loss is not finite.
        """
        if not torch.isfinite(loss):
            raise ArithmeticError(
                f"the loss of this micro-batch is {loss.item()}; its weights are left as they were before the update"
            )
        self.engine.backward(loss * self.ranks.size, scale_wrt_gas=False)

    def step(self) -> float | None:
        """One optimizer step over the micro-batches since the last. Returns the gradient's norm if the ZeRO stage knows it."""
        self.engine.step()
        self.version += 1
        norm = self.engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def changes(self) -> Changes:
        """To be asked after the next step how far it moved each part of the model."""
        return Changes(self.engine.module.qwen, self.ranks, part_of=self.family.part_of, zero_stage=self.settings.zero_stage)

    @property
    def bytes_to_come(self) -> int:
        """What Adam's two moments will take of the device's memory at the first step; ZeRO-3 makes them at the start."""
        optimizer = self.engine.basic_optimizer
        if any(optimizer.state.values()):
            return 0
        weights = [each for group in optimizer.param_groups for each in group["params"]]
        return 8 * sum(each.numel() for each in weights if each.device.type == self.ranks.device.type)

    @property
    def lr(self) -> float:
        return self.engine.get_lr()[0]

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, as (name, tensor) in the layout of released checkpoints; under ZeRO-3 all ranks iterate.

        A tied head is not listed: it is the embedding. Adapters are not listed either: they are added to their weights.
        """
        return chain.from_iterable(self.weight_buckets())

    def weight_buckets(
        self, most_bytes: int = _BUCKET_BYTES, *, trained_only: bool = False
    ) -> Iterator[list[tuple[str, Tensor]]]:
        """The named weights in buckets of at most most_bytes, or of one block (self_attn, mlp, ...) if that is larger.

        trained_only: with LoRA, of the blocks that have adapters. The tensors are views of the policy's weights, except for
        expert-parallel experts and for weights with adapters, which are copies. Under ZeRO-3 a bucket is gathered by one
        collective, and its memory is free as soon as nobody holds its tensors. What an engine fuses is in one block, so it is
        done with a bucket at its end.
        """
        for bucket in in_buckets(self._parameters(trained_only), most_bytes):
            with self._gathered(bucket):
                weights = merged(gather_experts(bucket), self._adapters)
                yield [(name, self.family.released_layout(name, weight)) for name, weight in weights]

    @property
    def parameter_names(self) -> frozenset[str]:
        """The names that `named_weights` yields."""
        return self._names(trained_only=False)

    @property
    def trained_names(self) -> frozenset[str]:
        """The names that `weight_buckets` yields with trained_only."""
        return self._names(trained_only=True)

    def adapters(self) -> dict[str, Tensor]:
        """With LoRA, the adapters' factors under peft's names; under ZeRO-3 all ranks call it."""
        held = [(name, parameter) for name, parameter in self._parameters() if is_adapter(name)]
        with self._gathered(held):
            return {name: factor.detach().clone() for name, factor in in_peft_format(held).items()}

    def _names(self, *, trained_only: bool) -> frozenset[str]:
        return frozenset(released_name(plain_name(name)) for name, _ in self._parameters(trained_only) if not is_adapter(name))

    def _parameters(self, trained_only: bool = False) -> Iterator[tuple[str, nn.Parameter]]:
        blocks = {block_of(name) for name in self._adapters} if trained_only else ()
        for name, parameter in self.engine.module.qwen.named_parameters():
            if not blocks or block_of(plain_name(name)) in blocks:
                yield name, parameter

    def _gathered(self, named: Iterable[tuple[str, nn.Parameter]]) -> Any:
        import deepspeed

        is_sharded = self.settings.zero_stage == 3
        return deepspeed.zero.GatheredParameters([each for _, each in named]) if is_sharded else nullcontext()

    def export(self, folder: Path, source: str, encoder: Encoder) -> None:
        """Writes a Hugging Face folder that transformers and vLLM load, with the settings of `source` and the encoder's end
        tokens. All ranks call it.
        """
        weights = self.named_weights()
        if self.ranks.is_first:
            save_checkpoint(weights, source, folder, self.family, encoder.processor, encoder.end_tokens)
            if unused := unused_tensors(source, self.family):
                logger.warning(
                    "%s lacks %d tensors of %s, such as %s, which vlrl does not train", folder, len(unused), source, unused[0]
                )
        else:
            for _ in weights:  # under ZeRO-3 gathering is a collective
                pass
        self.ranks.barrier()

    def write_adapter(self, folder: Path) -> int:
        """With LoRA, writes the adapters in peft's format into a folder of this rank's own; returns their bytes. Collective."""
        factors = self.adapters()
        save_adapter(self.engine.module.qwen, factors, folder, base=self.base)
        return sum(factor.nbytes for factor in factors.values())

    def export_adapter(self, folder: Path) -> None:
        """With LoRA, writes the adapters in peft's format; they belong to the model that was loaded. All ranks call it."""
        factors = self.adapters()
        if self.ranks.is_first:
            save_adapter(self.engine.module.qwen, factors, folder, base=self.base)
        self.ranks.barrier()

    def save(self, folder: Path) -> None:
        """Writes weights, optimizer and schedule, with LoRA of the adapters alone; every rank calls it with a folder of its own
        or the same.
        """
        progress = {"version": self.version, "base": self._fingerprint}
        policy_state.save(self.engine, folder / "policy", self.ranks.rank, progress, with_frozen=not self._adapters)

    def load(self, folder: Path, *, lr_scale: float = 1.0) -> None:
        """Restores what `save` wrote on any number of ranks; every rank calls it with the same folder.

        lr_scale: of the rate from now on. ValueError if the adapters in it belong to another model.
        """
        progress = policy_state.load(self.engine, folder / "policy", self.ranks.rank, with_frozen=not self._adapters)
        if progress.get("base", "") != self._fingerprint:
            raise ValueError(
                f"{folder}: its adapters were trained on a model with other contents than {self.base!r} has now; put that model "
                "back, or start a run of another name"
            )
        self.version, self.lr_scale = progress["version"], lr_scale
        schedule = self.engine.lr_scheduler
        for group, lr in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = lr * schedule.lr_lambdas[0](schedule.last_epoch)  # the next update's, else as it was when saved

    def close(self) -> None:
        """Gives the memory of weights, gradients and moments back; the policy cannot be used afterwards."""
        engine, module = self.engine, self.engine.module
        engine.destroy()
        # Under ZeRO-3 torch keeps the classes of DeepSpeed's autograd functions for ever, and with them the engine and the model:
        # what these hold is taken from them. A parameter has methods of DeepSpeed's, which hold it, and its share of the weights.
        for each in (*module.parameters(), engine.optimizer, engine, *module.modules()):
            each.__dict__.clear()
        del self.engine, self.routing, engine, module
        gc.collect()  # hooks and modules hold one another
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def in_buckets(named: Iterable[tuple[str, nn.Parameter]], most_bytes: int) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """The parameters in order, cut between blocks so that no bucket of several blocks exceeds most_bytes."""
    bucket: list[tuple[str, nn.Parameter]] = []
    size = 0
    for _, members in groupby(named, key=lambda item: block_of(plain_name(item[0]))):
        block = list(members)
        block_size = sum(_whole_size(each) * each.element_size() for _, each in block)
        if bucket and size + block_size > most_bytes:
            yield bucket
            bucket, size = [], 0
        bucket += block
        size += block_size
    if bucket:
        yield bucket


def _whole_size(parameter: nn.Parameter) -> int:
    """The whole parameter's size: DeepSpeed keeps a sharded one's beside it, and an expert-parallel one is a rank's share."""
    return getattr(parameter, "ds_numel", parameter.numel()) * expert_parallel_size(parameter)


def deepspeed_config(settings: cfg.PolicyConfig, *, block_size: int = 0) -> dict[str, Any]:
    """DeepSpeed's configuration: what vlrl needs, then the run file's `deepspeed:` block on top.

    block_size: parameters of the model's largest block, which ZeRO-3 gathers while it computes the block before.
    """
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.zero_stage == 3:
        # DeepSpeed's defaults, which a sparse block of a large MoE model exceeds. Live at most: two blocks, and one's gradients.
        zero |= {"stage3_prefetch_bucket_size": max(5 * 10**7, block_size)}
        zero |= {"stage3_max_live_parameters": max(10**9, 3 * block_size)}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    adam = {"lr": settings.lr, "betas": list(settings.betas), "eps": settings.eps, "weight_decay": settings.weight_decay}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # any number of micro-batches, then one step
        "gradient_clipping": settings.gradient_clipping,
        "zero_optimization": zero,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},  # else bfloat16 gradients are summed in bfloat16, 3 % off after 64 passes
        "optimizer": {"type": "AdamW", "params": adam | {"torch_adam": True, "fused": True}},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    return _merge(config, settings.deepspeed)


def block_size(settings: cfg.PolicyConfig, model: str) -> int:
    return ModelSizes.of(empty_model(model)).largest_block if settings.zero_stage == 3 else 0


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        # Another optimizer takes other parameters: it replaces the whole entry.
        merged[key] = _merge(base[key], value) if both and key != "optimizer" else value
    return merged


def load_packed(
    settings: cfg.PolicyConfig,
    model: str,
    ranks: Ranks,
    *,
    temperature: float,
    banned: list[int],
    lora: cfg.LoraConfig | None = None,
) -> PackedModel:
    """The model on this rank's device; under ZeRO-3 this rank's share of each weight, which it never holds more of."""
    download_once(model, ranks)
    loaded = load_model(
        model,
        dtype=torch.float32 if settings.dtype == "float32" else torch.bfloat16,
        freeze_vision=settings.freeze_vision,
        gradient_checkpointing=settings.gradient_checkpointing,
        device=ranks.device,
        shard=partial(_shard, deepspeed_config(settings)) if settings.zero_stage == 3 else None,
    )
    if settings.zero_stage == 3:
        _keep_experts_together(loaded)
    if lora:
        add_adapters(loaded, lora)
    return PackedModel(loaded, temperature=temperature, banned=banned).to(ranks.device)


def _shard(config: dict[str, Any], weights: nn.ParameterList) -> None:
    """Leaves each rank its share of the weights, the first rank's."""
    import deepspeed

    deepspeed.zero.Init(module=weights, config_dict_or_path=config)


def _schedule(settings: cfg.PolicyConfig, updates: int) -> Callable[[int], float]:
    """Linear warm-up, then linear decay to `min_lr_ratio` of the rate at the last of the updates.

    A plain function, which torch leaves out of a checkpoint: a run that resumes with more steps decays over all of them.
    """

    def rate(update: int) -> float:
        if update < settings.warmup_steps:
            return (update + 1) / (settings.warmup_steps + 1)
        progress = min(1.0, (update - settings.warmup_steps) / max(1, updates - settings.warmup_steps))
        return 1.0 + (settings.min_lr_ratio - 1.0) * progress

    return rate


def _keep_experts_together(model: Any) -> None:
    """Under ZeRO-3 a sparse block is gathered as one unit: which experts run differs between ranks."""
    from deepspeed.utils import set_z3_leaf_modules

    if experts := family_of(model.config.model_type).experts:
        set_z3_leaf_modules(model, [experts.sparse_block_class()])
