"""Qwen3-VL, dense and MoE: loading, chat and images to tensors, group packing, log-probs."""
