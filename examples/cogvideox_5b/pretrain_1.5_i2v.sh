#!/usr/bin/env bash
# Pretrain CogVideoX-1.5-5B image-to-video: 81 frames of 768 x 1360, some 45,000 tokens a clip.
#
# Tensor parallel over 2 GPUs, context parallel over 4: one replica a node of 8, every layer recomputed in the backward pass. Variables and
# use as in pretrain.sh, which this calls.
set -euo pipefail
export MODEL=cogvideox-1.5-5b-i2v TP=${TP:-2} CP=${CP:-4}
export GLOBAL_BATCH_SIZE=${GLOBAL_BATCH_SIZE:-64} RUN=${RUN:-runs/cogvideox-1.5-5b-i2v}
exec "$(dirname "$0")/pretrain.sh" \
    --recompute-granularity full --recompute-method uniform --recompute-num-layers 1 \
    "$@"
