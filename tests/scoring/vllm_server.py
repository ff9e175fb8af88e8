"""vLLM's own server on this machine's CPUs, with a tiny Qwen3-VL: python -m tests.scoring.vllm_server MODEL PORT.

vLLM's processes import this file first. torchvision's wheel cannot be imported beside a CPU build of torch without the schemas
that vlrl defines, and vLLM would look at a model's class, unless it is registered, in a process that lacks them.
"""

import os
import sys

os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}

import vlrl.models.cuda_wheels  # noqa: E402, F401, I001 (before transformers)
from vllm import ModelRegistry  # noqa: E402
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration  # noqa: E402

ModelRegistry.register_model(Qwen3VLForConditionalGeneration.__name__, Qwen3VLForConditionalGeneration)


def main(model: str, port: str) -> None:
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    served = ["--model", model, "--host", "127.0.0.1", "--port", port, "--served-model-name", "tiny"]
    limits = ["--dtype", "float32", "--max-model-len", "4096", "--max-num-seqs", "8", "--enforce-eager"]
    limits += ["--kv-cache-memory-bytes", str(1 << 28)]
    forms = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    sys.argv = ["vllm", *served, *limits, *forms, "--limit-mm-per-prompt", '{"image": 0, "video": 0}']
    serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
