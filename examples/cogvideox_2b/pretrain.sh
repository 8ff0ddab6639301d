#!/usr/bin/env bash
# Pretrain CogVideoX-2B: 49 frames of 480 x 720, bf16, data parallel over all GPUs.
#
#   DATA=/data/shards VAE=/models/cogvideox-2b/vae TEXT_ENCODER=/models/cogvideox-2b RUN=runs/2b \
#       examples/cogvideox_2b/pretrain.sh [MORE FLAGS]
#
# VAE and TEXT_ENCODER are local folders in the form of diffusers and transformers. Run it again to continue.
# On several nodes: sbatch examples/slurm/pretrain.sbatch examples/cogvideox_2b/pretrain.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

DATA=${DATA:?folder of shards made by tools/build_shards.py}
VAE=${VAE:?folder of a diffusers AutoencoderKLCogVideoX}
TEXT_ENCODER=${TEXT_ENCODER:?folder of a transformers T5 encoder and its tokenizer}
RUN=${RUN:-runs/cogvideox-2b}
VALID=${VALID:-} # shards held out for evaluation

export CUDA_DEVICE_MAX_CONNECTIONS=1

# A replica is one GPU, since the 30 heads of this model divide by few layouts; the optimizer's state is split over all.
exec torchrun \
    --nnodes "${NNODES:-1}" --nproc-per-node "${GPUS_PER_NODE:-8}" \
    --rdzv-backend c10d --rdzv-id "${RDZV_ID:-vidtron}" --rdzv-endpoint "${RDZV_ENDPOINT:-localhost:29400}" \
    pretrain_video.py \
    --model cogvideox-2b \
    --data-path "$DATA" \
    --vae-path "$VAE" \
    --text-encoder-path "$TEXT_ENCODER" \
    --bf16 \
    --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather \
    --micro-batch-size 1 --global-batch-size "${GLOBAL_BATCH_SIZE:-256}" \
    --train-iters "${TRAIN_ITERS:-100000}" \
    --lr "${LR:-1e-4}" --lr-decay-style constant --lr-warmup-iters 1000 \
    --clip-grad 1.0 \
    --save "$RUN" --load "$RUN" --save-interval 1000 --keep-latest 3 --async-save \
    ${VALID:+--valid-data-path "$VALID" --eval-interval 1000} \
    "$@"
