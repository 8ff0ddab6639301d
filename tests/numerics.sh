#!/usr/bin/env bash
# The tests of numbers on what other processors would compute: other paths of MKL and torch, and results of which the
# last bit is moved (tests/last_bits.py). tests/numerics.sh [arguments for pytest]; SEEDS="1 2 3" for more noise.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

numbers=(tests/diffusion tests/models tests/reference tests/encoders tests/inference tests/parallel
    tests/checkpoint/test_formats.py tests/checkpoint/test_sat.py tests/checkpoint/test_lora_formats.py
    tests/checkpoint/test_lora_conversion.py)
tables=(tests/diffusion tests/models tests/reference)  # bit-exact conversions write tables that this would move

# What torch.compile has made for one path does not compile on another, and its cache does not tell them apart.
compiled=$(mktemp -d)
trap 'rm -rf "$compiled"' EXIT

failed=()
run() {  # run NAME VARIABLE=VALUE FOLDERS...
    echo "== $1"
    env "$2" "TORCHINDUCTOR_CACHE_DIR=$compiled/${2//[^[:alnum:]_=]/-}" "$PYTHON" -m pytest -n 2 -q "${@:3}" "${arguments[@]}" || failed+=("$1")
}

arguments=("$@")
run "as the machine is" VIDTRON_LAST_BITS= "${numbers[@]}"
run "MKL's compatible path" MKL_CBWR=COMPATIBLE "${numbers[@]}"
run "torch without vector instructions" ATEN_CPU_CAPABILITY=default "${numbers[@]}"
for seed in ${SEEDS:-1 2}; do
    run "last bits of results moved, seed $seed" "VIDTRON_LAST_BITS=$seed" "${numbers[@]}"
    run "last bits of tables too, seed $seed" "VIDTRON_LAST_BITS=$seed,tables" "${tables[@]}"
done

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "passed under all"
