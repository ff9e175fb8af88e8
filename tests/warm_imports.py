"""What the processes of tests/warm.py begin with: a run's heavy imports, under the environment that a run gives them."""

import gc
import os
from importlib import import_module

from vlrl.cli.shared import quieten

os.environ.setdefault("DS_ACCELERATOR", "cpu")
quieten()
vllm_local = import_module("vlrl.rollout.vllm_local")
vllm_local.set_environment(tells_routes=False)

for name in ("qwen3_vl.modeling_qwen3_vl", "qwen3_vl_moe.modeling_qwen3_vl_moe", "qwen3_vl.processing_qwen3_vl"):
    import_module(f"transformers.models.{name}")
for name in (
    "deepspeed",
    "deepspeed.module_inject.auto_ep_layer",
    "qwen_vl_utils",
    "torch._inductor.compile_fx",
    "transformers.tokenization_mistral_common",
    "vllm.entrypoints.llm",
    "vllm.model_executor.models.qwen3_vl_moe",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vlrl.evaluation.pass_rate",
    "vlrl.preflight.full_checks",
    "vlrl.train",
):
    import_module(name)
gc.collect()
gc.freeze()  # vLLM collects at its start, which would read, and so copy, every page of these imports
