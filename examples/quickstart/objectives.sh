#!/usr/bin/env bash
# One clip of the quickstart learned by heart with each objective, and how near its sample comes to it:
#   examples/quickstart/objectives.sh [CLIPS [OBJECTIVE ...]]
# CLIPS: quickstart/clips, where examples/quickstart/run.sh has put them. STEPS: of each training, from the environment.
set -euo pipefail
clips=$(realpath "${1:-quickstart/clips}")
shift $(($# > 0))
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
folder=quickstart/objectives

# cogvideox-tiny trains velocity with --noise-shift 100: nearly all of its noise levels leave little of the clip, for so
# small a network learns clips by heart rather than to denoise them.
declare -A flags=(
    [velocity]=""
    # Much noise tells nothing of the clip, and an error in it grows by sigma / alpha: a table that ends before, and
    # most of the training where the clip is half gone.
    [epsilon]="--parameterization epsilon --schedule ddpm-scaled-linear --noise-shift 1
        --timestep-density log-normal --density-mean 0.7 --density-std 0.8"
    # Multiplies sigma / alpha; --noise-shift multiplies its square.
    [flow]="--parameterization flow --schedule flow --noise-shift 1 --timestep-shift 16"
    [edm]="--parameterization edm --schedule edm --noise-shift 1 --loss-weighting edm
        --timestep-density log-normal --density-mean 2.3"
)
[ $# -gt 0 ] || set -- velocity epsilon flow edm

clip=$(cd "$clips/videos" && printf '%s\n' *.mp4 | head -n 1)
rm -rf "$folder/clip" "$folder/shards"
mkdir -p "$folder/clip/videos" "$folder/clip/labels"
cp "$clips/videos/$clip" "$folder/clip/videos/"
cp "$clips/labels/${clip%.mp4}.txt" "$folder/clip/labels/"
python tools/build_shards.py --input "$folder/clip" --output "$folder/shards" --height 64 --width 96

for objective in "$@"; do
    echo "== $objective:" ${flags[$objective]}
    # One latent pixel a token: predicted noise has to be copied, and that leaves the network room for the clip.
    # shellcheck disable=SC2086
    torchrun --nproc-per-node 1 pretrain_video.py \
        --model cogvideox-tiny --num-frames 5 --patch-size 1 ${flags[$objective]} \
        --data-path "$folder/shards" \
        --global-batch-size 8 --micro-batch-size 8 --train-iters "${STEPS:-600}" \
        --text-dropout 0 \
        --log-interval 100 \
        --save "$folder/$objective" --overwrite
    python examples/quickstart/compare.py --load "$folder/$objective" --output "$folder/$objective" --sampling-steps 3
done
