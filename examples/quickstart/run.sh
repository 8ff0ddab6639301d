#!/usr/bin/env bash
# From clips to a sampled video: examples/quickstart/run.sh [FOLDER OF YOUR OWN CLIPS]
# Runs from the repository's root with the environment's python and torchrun in PATH (make quickstart sees to both).
set -euo pipefail
[ $# -eq 0 ] || set -- "$(realpath "$1")"
cd "$(dirname "$0")/../.."

folder=quickstart
steps=${STEPS:-1000}
export OMP_NUM_THREADS=1

if [ $# -eq 0 ]; then
    clips=$folder/clips shards=$folder/shards
    if [ ! -d "$clips" ]; then
        echo "== clips -> $clips"
        rm -rf "$clips.part"
        python examples/quickstart/fetch_clips.py "$clips.part" --limit 24
        mv "$clips.part" "$clips"
    fi
else
    clips=$1 shards=$folder/shards-$(cksum <<<"$1" | cut -d ' ' -f 1)
fi

echo "== shards -> $shards"
# Clips are made as small as the model sees them once, here, instead of in every step.
python tools/build_shards.py --input "$clips" --output "$shards" --height 64 --width 96

echo "== training -> $folder/run"
torchrun --nproc-per-node 2 pretrain_video.py \
    --model cogvideox-tiny \
    --data-path "$shards" \
    --tensor-model-parallel-size 2 --sequence-parallel \
    --micro-batch-size 16 --train-iters "$steps" \
    --text-dropout 0 \
    --log-interval 50 \
    --save "$folder/run" --overwrite

echo "== loss"
python examples/quickstart/loss_curve.py "$folder/run"

echo "== sample -> $folder"
python examples/quickstart/compare.py --load "$folder/run" --output "$folder"
