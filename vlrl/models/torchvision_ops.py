"""Lets torchvision's plain wheel be imported beside a CPU build of torch.

The wheel's compiled operators need CUDA's torch; without them `import torchvision` fails because the schema of `nms` is
unknown. Qwen-VL's processors use none of them, so their schemas are all that is needed. Import before transformers.
"""

import torch
from torch import library

_missing = [op for op in ("nms", "qnms") if not hasattr(torch.ops.torchvision, op)]
if _missing:
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, AttributeError):
        _ops = library.Library("torchvision", "FRAGMENT")
        for _op in _missing:
            _ops.define(f"{_op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
