#!/usr/bin/env bash
# The quickstart's training with each objective, and how near its sample comes to the clip it was learned from:
#   examples/quickstart/objectives.sh [SHARDS [OBJECTIVE ...]]
# SHARDS: quickstart/shards, where examples/quickstart/run.sh has put them. STEPS and RANKS (data parallel) from the environment.
set -euo pipefail
shards=$(realpath "${1:-quickstart/shards}")
shift $(($# > 0))
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
steps=${STEPS:-500} ranks=${RANKS:-1} folder=quickstart/objectives

# cogvideox-tiny trains velocity with --noise-shift 100: nearly all of its noise levels leave little of the clip, for so
# small a network learns clips by heart rather than to denoise them. The others get as much noise.
declare -A flags=(
    [velocity]=""
    # Where nothing of the clip is left, noise does not tell it: a table that ends before, and less noise.
    [epsilon]="--parameterization epsilon --schedule ddpm-scaled-linear --noise-shift 4"
    # Multiplies sigma / alpha; --noise-shift multiplies its square.
    [flow]="--parameterization flow --schedule flow --noise-shift 1 --timestep-shift 16"
    [edm]="--parameterization edm --schedule edm --noise-shift 1 --loss-weighting edm
        --timestep-density log-normal --density-mean 2.3"
)
[ $# -gt 0 ] || set -- velocity epsilon flow edm

for objective in "$@"; do
    echo "== $objective: ${flags[$objective]:-the defaults of cogvideox-tiny}"
    # shellcheck disable=SC2086
    torchrun --nproc-per-node "$ranks" pretrain_video.py \
        --model cogvideox-tiny ${flags[$objective]} \
        --data-path "$shards" \
        --global-batch-size 16 --micro-batch-size $((16 / ranks)) --train-iters "$steps" \
        --text-dropout 0 \
        --log-interval 50 \
        --save "$folder/$objective" --overwrite
    python examples/quickstart/compare.py --load "$folder/$objective" --output "$folder/$objective"
done
