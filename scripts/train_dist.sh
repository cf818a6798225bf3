#!/usr/bin/env bash
# Trains in several processes, on CPU or GPU; arguments are those of paddle-dla train.
#   NPROC=2 scripts/train_dist.sh --config configs/dla60.yaml -o data.train=imagenet/train
#   NNODES=2 MASTER=10.0.0.1:29500 NODE_IP=10.0.0.2 NIC=eth0 scripts/train_dist.sh ...   # on each node, its own NODE_IP
set -euo pipefail
root=$(dirname "$(dirname "$(realpath "$0")")")
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
[ -z "${NIC:-}" ] || export GLOO_SOCKET_IFNAME=$NIC NCCL_SOCKET_IFNAME=$NIC
exec "${PYTHON:-python}" -m paddle_dla.launch ${NPROC:+--nproc "$NPROC"} ${NNODES:+--nnodes "$NNODES"} \
  ${MASTER:+--master "$MASTER"} ${NODE_IP:+--node-ip "$NODE_IP"} ${HANG_TIMEOUT:+--hang-timeout "$HANG_TIMEOUT"} \
  train "$@"
