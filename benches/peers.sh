#!/usr/bin/env bash
# netloom beside its peers, engines in turn, as a table of medians and ratios: benches/peers.sh PEERS train|infer|infer16 [NET…]
# PEERS is the folder that benches/peers/README.md sets up.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 2 ] || [[ "$2" != train && "$2" != infer && "$2" != infer16 ]]; then
  echo "usage: benches/peers.sh PEERS train|infer|infer16 [NET…]" >&2
  exit 2
fi
peers=$(realpath "$1") kind=$2
shift 2
if [ $# = 0 ] && [ "$kind" = train ]; then set -- tiny mlp autoencoder lenet lstm resnet18; fi
if [ $# = 0 ]; then set -- squeezenet resnet18 googlenet alexnet vgg16; fi
cargo build --release --quiet
exec python3 benches/peers/compare.py "$peers" "$kind" "$@"
