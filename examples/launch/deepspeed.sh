#!/usr/bin/env bash
# Trains under the deepspeed launcher, on this host or on those of HOSTFILE ("host slots=8", one line each; needs ssh to them):
#   examples/launch/deepspeed.sh configs/qwen3vl_8b.yaml [setting=value ...]
exec deepspeed ${HOSTFILE:+--hostfile "$HOSTFILE"} ${GPUS:+--num_gpus "$GPUS"} --no_local_rank --module vlrl.cli train "$@"
