"""The vLLM engine in the training process, weight sync, and the canary that watches it."""
