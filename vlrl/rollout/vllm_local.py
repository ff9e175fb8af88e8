"""vLLM in the training process: requests in, rollouts out one by one as each ends.

The engine gets token ids and pixel values that the trainer's encoder made, one request per sample with a seed of its own,
and reports log-probs after temperature and bans: the distribution that it really sampled from.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vlrl import config as cfg
from vlrl.distributed.ranks import Ranks
from vlrl.models.checkpoint_io import check_model
from vlrl.models.families.family import Family
from vlrl.models.lora import targeted_weights
from vlrl.models.tensor_check import empty_model
from vlrl.rollout import gdn_on_cpu
from vlrl.rollout.engine import Request
from vlrl.types import Rollout

logger = logging.getLogger(__name__)

# A prompt's samples share its full blocks of the cache, and vLLM's default of 128 tokens a block is longer than many prompts.
# A step's requests run at once: the default is 256, and those beyond it would wait for others to end.
_ON_CPU = {"block_size": 32, "max_num_seqs": 512}

# An engine that is collected ends the whole process group, DeepSpeed's part in it too, so none is while the process lives.
_opened: list[Any] = []


class VllmEngine:
    """vLLM for one data-parallel replica; tensor-parallel ranks hold it together and submit the same requests.

    end_tokens: each ends a response; banned: ids that are never sampled.
    tells_routes: rollouts have the experts that their tokens went to; lora: the settings of the adapters that it can load.
    `version` is the policy version of the weights it holds.
    """

    def __init__(
        self,
        settings: cfg.EngineConfig,
        model: str,
        *,
        dtype: str,
        seed: int,
        end_tokens: Sequence[int],
        banned: Sequence[int],
        merge_size: int,
        family: Family,
        ranks: Ranks,
        tells_routes: bool = False,
        lora: cfg.LoraConfig | None = None,
    ):
        set_environment(tells_routes=tells_routes)
        from vllm import LLM

        on_gpu = torch.cuda.is_available()
        if family.recurrent_layer and not on_gpu:
            gdn_on_cpu.install()
        if settings.tensor_parallel > 1 and not on_gpu:
            _name_shared_memory()
        if not on_gpu:
            _leave_memory_unbound()
        _register(family.vllm_class())
        self.settings = settings
        self.ranks = ranks
        self.version = 0
        self._tells_routes = tells_routes
        self._is_tied = check_model(model)["tie_word_embeddings"]
        more: dict[str, Any] = {"enable_return_routed_experts": True} if tells_routes else {}
        more["hf_overrides"] = {
            # config.json says twice whether the head is the embedding: transformers reads it at the top, vLLM in text_config.
            "text_config": {"tie_word_embeddings": self._is_tied},
            # Logits in fp32, as the trainer's: bf16 has steps of .125 from 16 to 32, and log-probs would be off by as much.
            "head_dtype": "float32",
        }
        if lora:
            more |= _lora_arguments(lora, model)
            _keep_the_platform_s_experts()
        self._adapter: Any = None
        if needed := family.engine_settings(on_gpu):
            more |= needed
            if ranks.is_first:
                logger.warning("vLLM runs with %s, which a %s needs on this device", needed, family.model_type)
        self._llm = LLM(**(_arguments(settings, model, dtype, seed) | more | settings.vllm))
        _opened.append(self._llm)
        self.slots = self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        self._end_tokens = list(end_tokens)
        self._bias = dict.fromkeys(banned, -100.0)
        self._merge_size = merge_size
        self._family = family
        self._sleeps = _can_sleep(settings)

    def generate(self, requests: Sequence[Request]) -> Iterator[Rollout]:
        self._check_same_requests(requests)
        self.reset_caches()
        core = self._llm.llm_engine
        places = {str(number): request for number, request in enumerate(requests)}
        for name, request in places.items():
            core.add_request(name, self._input(request), self._parameters(request), lora_request=self._adapter)
        waiting = set(places)
        try:
            while waiting:
                assert core.has_unfinished_requests(), f"the engine dropped {len(waiting)} of {len(requests)} requests"
                outputs: Any = core.step()
                for output in outputs:
                    if output.finished:
                        waiting.discard(output.request_id)
                        yield self._rollout(places[output.request_id], output.outputs[0])
        finally:
            core.abort_request(list(waiting))  # if the caller wants no more of them

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        weights = self._with_new_expert_kernels(weights)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._with_tied_head(weights)})

    def load_adapter(self, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        # An adapter of a known id is the one in the cache, unless it is to be loaded in place of that.
        self._llm.llm_engine.add_lora(LoRARequest("policy", 1, str(folder), load_inplace=True))
        self._adapter = LoRARequest("policy", 1, str(folder))

    def differing_weights(self, weights: Iterable[tuple[str, Tensor]]) -> list[str]:
        return self._llm.apply_model(lambda model: _differing(model, weights))[0]

    def reset_caches(self) -> None:
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()  # without it the next image prompt dies with "Encoder cache miss"

    def sleep(self) -> None:
        if self._sleeps:
            self._llm.sleep(level=1)

    def wake(self) -> None:
        if self._sleeps:
            self._llm.wake_up()

    def close(self) -> None:
        """Nothing: it ends with the process."""

    def _rollout(self, request: Request, completion: Any) -> Rollout:
        tokens = tuple(completion.token_ids)
        if self._tells_routes and completion.routed_experts is None:
            raise RuntimeError("the engine was asked to tell its experts and did not; use algorithm.routing_replay: r2")
        return Rollout(
            slot=request.slot,
            sample=request.sample,
            tokens=tokens,
            logprobs=tuple(completion.logprobs.logprobs),
            weight_versions=(self.version,) * len(tokens),
            finish_reason=str(completion.finish_reason),
            routes=completion.routed_experts,
        )

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=request.decoding.temperature,
            top_p=request.decoding.top_p,
            top_k=request.decoding.top_k,
            max_tokens=request.max_new_tokens,
            seed=request.seed,
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,  # in one list, instead of a dict and an object for each token
            logit_bias=self._bias,
            stop_token_ids=self._end_tokens,
            ignore_eos=True,  # no other token than these: the text, the loss and the export know of no other
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # made for this request alone: a deep copy of it would cost more than a decoding step
        )

    def _input(self, request: Request) -> Any:
        """The prompt as vLLM's own processor would have made it, from the trainer's tokens and pixels, and what is begun."""
        from vllm.inputs.engine import mm_input, tokens_input
        from vllm.multimodal.inputs import PlaceholderRange

        prompt = request.prompt
        tokens = [*prompt.tokens.tolist(), *request.begun]
        if not len(prompt.grid):
            return tokens_input(tokens)
        return mm_input(
            tokens,
            mm_kwargs=self._family.vllm_images(prompt.pixels, prompt.grid, self._merge_size),
            mm_hashes={"image": list(prompt.image_keys)},
            mm_placeholders={"image": [PlaceholderRange(offset=offset, length=length) for offset, length in prompt.image_spans]},
        )

    def _with_tied_head(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """A tied head is loaded too, or vLLM restores its old one."""
        embedding, head = self._family.tied_weights
        for name, tensor in weights:
            yield name, tensor
            if self._is_tied and name == embedding:
                yield head, tensor

    def _with_new_expert_kernels(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Has vLLM make its experts' kernels anew if experts are among the weights; without them it would lack kernels."""
        is_reset = False
        for name, tensor in weights:
            if not is_reset and ".experts." in name:
                self._llm.apply_model(_reset_expert_kernels)
                is_reset = True
            yield name, tensor

    def _check_same_requests(self, requests: Sequence[Request]) -> None:
        """Tensor-parallel ranks that submit different prompts raise nothing and score wrongly: compare a hash first."""
        if self.settings.tensor_parallel == 1:
            return
        content = [(r.prompt.tokens.tolist(), r.prompt.image_keys, r.begun, r.max_new_tokens, r.seed) for r in requests]
        mine = hashlib.blake2b(repr(content).encode()).hexdigest()
        hashes = self.ranks.gather(mine)
        first = self.ranks.rank // self.settings.tensor_parallel * self.settings.tensor_parallel
        if len(set(hashes[first : first + self.settings.tensor_parallel])) > 1:
            raise RuntimeError(f"the tensor-parallel ranks from {first} on submit different prompts; they must be the same")


def set_environment(*, tells_routes: bool) -> None:
    """What vLLM reads from the environment when it is first imported."""
    defaults = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights are passed by reference
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # lets a function run on the engine's model; nothing leaves the process
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads share the cores
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if tells_routes:
        defaults["VLLM_USE_V2_MODEL_RUNNER"] = "1"  # the older one can't
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _arguments(settings: cfg.EngineConfig, model: str, dtype: str, seed: int) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    return {
        "model": model,
        "dtype": dtype,
        "seed": seed,
        "tensor_parallel_size": settings.tensor_parallel,
        "distributed_executor_backend": "external_launcher",
        "max_model_len": settings.max_model_len,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enable_sleep_mode": _can_sleep(settings),
        "enforce_eager": not on_gpu,
        "enable_chunked_prefill": on_gpu,  # on CPU a chunked prefill can't take a request's own seed
        **({} if on_gpu else _ON_CPU | {"kv_cache_memory_bytes": int(settings.kv_cache_gb * (1 << 30))}),
        "max_num_batched_tokens": max(8192, settings.max_model_len),
        "limit_mm_per_prompt": {"video": 0},
        "mm_device_do_normalize": False,  # the pixels come normalised from the trainer's encoder
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def _lora_arguments(lora: cfg.LoraConfig, model: str) -> dict[str, Any]:
    from vllm.config.lora import MaxLoRARanks

    names = [name for weights in targeted_weights(empty_model(model), lora).values() for name in weights]
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": min(most for most in get_args(MaxLoRARanks) if most >= lora.rank),
        "lora_target_modules": sorted({name.split(".")[-2] for name in names}),  # else all layers compute an adapter's product
    }


def _keep_the_platform_s_experts() -> None:
    """With LoRA vLLM takes Triton's experts on every platform, but a CPU has no Triton, and experts get no adapters here."""
    if torch.cuda.is_available():
        return
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as method
    from vllm.model_executor.layers.fused_moe.oracle.unquantized import select_unquantized_moe_backend as select

    method.select_unquantized_moe_backend = lambda moe_config: select(replace(moe_config, is_lora_enabled=False))


def _name_shared_memory() -> None:
    """Gives the memory that a CPU's tensor-parallel processes share a name of its own: vLLM's is the same for every engine of the
    machine, and one that was killed leaves it behind."""
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    def name(communicator: Any) -> str:
        return "-".join(["vlrl", os.environ["MASTER_PORT"], communicator.unique_name, *map(str, communicator.ranks)])

    _CPUSHMDistributed.make_group_name = staticmethod(name)  # type: ignore[method-assign]


def _leave_memory_unbound() -> None:
    """On a CPU vLLM binds the whole process's memory, the trainer's too, strictly to one NUMA node, and prints a warning."""
    torch.ops._C.init_cpu_memory_env = lambda nodes: None  # type: ignore[attr-defined]


def _can_sleep(settings: cfg.EngineConfig) -> bool:
    return settings.sleep and torch.cuda.is_available()


def _register(model: type) -> None:
    """Registers the class itself: by name, vLLM would inspect it in a subprocess without torchvision's schemas."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(model.__name__, model)


def _reset_expert_kernels(model: nn.Module) -> None:
    """On an update vLLM does not repack fused experts, and samples from a mixture of old and new, unless made to."""
    for module in model.modules():
        for attribute in ("quant_method", "base_quant_method"):
            method: Any = getattr(module, attribute, None)
            if getattr(method, "moe_kernel", None) is not None:
                method.moe_kernel = None


def _differing(model: Any, weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    held = dict(model.named_parameters())
    fused = {part: whole for whole, parts in model.packed_modules_mapping.items() for part in parts}
    filled: dict[str, int] = {}
    differing = []
    for name, tensor in weights:
        own = model.hf_to_vllm_mapper.map_name(name)
        module = own.split(".")[-2]
        own = own.replace(f".{module}.", f".{fused.get(module, module)}.")
        if own not in held:
            continue
        first = filled.get(own, 0) if module in fused else 0
        filled[own] = first + len(tensor)
        mine = held[own][first : first + len(tensor)]
        if mine.shape == tensor.shape and not mine.equal(tensor.to(mine)):  # the engine's dtype may be the narrower one
            differing.append(name)
    return differing
