"""Lets wheels that were built for CUDA's torch stand beside a CPU build of torch. Import it before transformers.

pip installs such wheels of torchvision, torchaudio and torchcodec with vLLM, since it takes the newest of each. Without these
lines `import transformers` fails on them. vlrl needs none of their compiled code.
"""

import sys
from importlib import import_module

import torch
from torch import library

# torchvision needs only the schemas of its operators to be imported; Qwen-VL's processors use none of them.
_missing = [op for op in ("nms", "qnms") if not hasattr(torch.ops.torchvision, op)]
if _missing:
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, AttributeError):
        _ops = library.Library("torchvision", "FRAGMENT")
        for _op in _missing:
            _ops.define(f"{_op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

# These two read sound and video. With None in their place transformers and vLLM find them absent, and go on without them.
for _name in ("torchaudio", "torchcodec"):
    try:
        import_module(_name)
    except (ImportError, OSError, RuntimeError):
        sys.modules[_name] = None  # type: ignore[assignment]
