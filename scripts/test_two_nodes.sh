#!/usr/bin/env bash
# Two nodes on one machine: two network namespaces joined by a cable, a rank in each. Needs root and iproute2.
# They train as one process does; rank 1 is killed, the other node notices, the same command goes on.
#   scripts/test_two_nodes.sh FOLDER     # an empty or new folder for images, runs and logs
set -euo pipefail
root=$(dirname "$(dirname "$(realpath "$0")")")
mkdir -p "${1:?a folder for images, runs and logs}"
work=$(realpath "$1")
export PYTHONPATH=$root:$root/tests:$root/tests/without_pictures OMP_NUM_THREADS=1
python=${PYTHON:-python}
near=dla-near-$$ far=dla-far-$$

leave() {
  for node in "$near" "$far"; do
    ip netns pids "$node" 2>/dev/null | xargs -r kill -9 || true
    ip netns del "$node" 2>/dev/null || true
  done
}
trap leave EXIT

train_node() {  # NAMESPACE ADDRESS RUN: the command that a user gives on each node
  NNODES=2 NPROC=1 MASTER=10.77.0.1:29511 NODE_IP=$2 NIC=eth0 HANG_TIMEOUT=60 PYTHON=$python \
    ip netns exec "$1" "$root/scripts/train_dist.sh" \
    --config "$work/config.yaml" -o "train.output=$work/$3" data.batch_size=4 >"$work/$3.$1.txt" 2>&1
}

train_both() {  # RUN: their exit codes are then in near_code and far_code
  train_node "$near" 10.77.0.1 "$1" & local first=$!
  train_node "$far" 10.77.0.2 "$1" & local second=$!
  near_code=0 far_code=0
  wait "$first" || near_code=$?
  wait "$second" || far_code=$?
  for node in near far; do sed "s/^/    $node: /" "$work/$1.dla-$node-$$.txt"; done
  echo "$1: exit codes $near_code and $far_code"
}

kill_rank_1() {  # RUN: once it has made three updates
  until [ "$(grep -c '"kind": "train"' "$work/$1/rank1.jsonl" 2>/dev/null)" -ge 3 ] 2>/dev/null; do sleep 0.05; done
  kill -9 "$(sed -n 's/.*"kind": "start".*"pid": \([0-9]*\).*/\1/p' "$work/$1/rank1.jsonl")"
}

ip netns add "$near"
ip netns add "$far"
ip link add eth0 netns "$near" type veth peer name eth0 netns "$far"
for end in "$near 10.77.0.1" "$far 10.77.0.2"; do
  set -- $end
  ip -n "$1" link set lo up
  ip -n "$1" addr add "$2/24" dev eth0
  ip -n "$1" link set eth0 up
done

"$python" "$root/tests/two_nodes.py" prepare "$work"
"$python" -m paddle_dla.train --config "$work/config.yaml" -o "train.output=$work/one" data.batch_size=8
train_both two
[ "$near_code $far_code" = "0 0" ]
"$python" "$root/tests/two_nodes.py" compare "$work/one" "$work/two"

kill_rank_1 killed &
train_both killed
[ "$near_code" != 0 ] && [ "$far_code" != 0 ]
grep -h "^error: rank 1 .* died of signal 9" "$work"/killed.dla-*.txt
train_both killed
[ "$near_code $far_code" = "0 0" ]
"$python" "$root/tests/two_nodes.py" compare "$work/two" "$work/killed"
