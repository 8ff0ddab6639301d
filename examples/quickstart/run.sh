#!/usr/bin/env bash
# From clips to a sampled video: examples/quickstart/run.sh [FOLDER OF YOUR OWN CLIPS]
# Runs from the repository's root with the environment's python and torchrun in PATH (make quickstart sees to both).
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=quickstart
clips=${1:-}
steps=${STEPS:-300}
export OMP_NUM_THREADS=1

if [ -z "$clips" ]; then
    clips=$folder/clips
    echo "== clips -> $clips"
    python examples/quickstart/fetch_clips.py "$clips"
fi

echo "== shards -> $folder/shards"
python tools/build_shards.py --input "$clips" --output "$folder/shards"

echo "== training -> $folder/run"
torchrun --nproc-per-node 2 pretrain_video.py \
    --model cogvideox-tiny \
    --data-path "$folder/shards" \
    --tensor-model-parallel-size 2 --sequence-parallel \
    --train-iters "$steps" \
    --log-interval 10 \
    --save "$folder/run" --overwrite

echo "== loss"
python examples/quickstart/loss_curve.py "$folder/run"

echo "== sample -> $folder/sample"
python tools/sample_video.py --load "$folder/run" --data-path "$folder/shards" --output "$folder/sample"
