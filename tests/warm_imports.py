"""What the processes of tests/warm.py begin with: a run's heavy imports, under the environment that a run gives them."""

import os
from importlib import import_module

from vlrl.cli.shared import quieten

os.environ.setdefault("DS_ACCELERATOR", "cpu")
quieten()
vllm_local = import_module("vlrl.rollout.vllm_local")
vllm_local.set_environment(import_module("vlrl.config").EngineConfig(), tells_routes=False)

for name in ("qwen3_vl.modeling_qwen3_vl", "qwen3_vl_moe.modeling_qwen3_vl_moe"):
    import_module(f"transformers.models.{name}")
for name in (
    "deepspeed",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.core",
    "vlrl.evaluation.pass_rate",
    "vlrl.train",
):
    import_module(name)
