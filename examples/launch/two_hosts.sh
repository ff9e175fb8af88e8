#!/usr/bin/env bash
# Trains on two hosts, or HOSTS of them. Start it on each, with the host's number and the address of host 0:
#   examples/launch/two_hosts.sh 0 10.0.0.1 configs/qwen3vl_30b_a3b.yaml [setting=value ...]
#   examples/launch/two_hosts.sh 1 10.0.0.1 configs/qwen3vl_30b_a3b.yaml [setting=value ...]
# GPUS (8): processes on each host; PORT (29500): of host 0, free and open to the others.
# `runs` must be on a file system that all hosts share. Check the hosts first: COMMAND=doctor, with the same arguments.
exec torchrun --nnodes "${HOSTS:-2}" --nproc_per_node "${GPUS:-8}" --node_rank "$1" --master_addr "$2" \
  --master_port "${PORT:-29500}" -m vlrl.cli "${COMMAND:-train}" "${@:3}"
