"""vlrl: reinforcement learning for Qwen-VL models on a fixed mixture of verifiable tasks."""

__version__ = "0.1.0"
