"""Qwen3-VL: encoding, packing, attention, log-probs, routing, loading."""

import vlrl.model.torchvision_ops  # noqa: F401  (before transformers, whoever imports a part of this)
