#!/usr/bin/env bash
# Trains on the GPUs of this host, and starts again by itself, from the newest checkpoint, if a process dies:
#   examples/launch/one_host.sh configs/qwen3vl_8b.yaml [setting=value ...]
# GPUS (8): processes; RESTARTS (3): how often it starts again.
exec torchrun --standalone --nproc_per_node "${GPUS:-8}" --max-restarts "${RESTARTS:-3}" -m vlrl.cli train "$@"
