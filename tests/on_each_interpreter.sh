#!/usr/bin/env bash
# The quick tests (all that are not marked slow) on every accepted Python that is found, each in an environment of its
# own under .venvs/, and checkpoints that each has written read on every other.
#   tests/on_each_interpreter.sh [arguments for pytest]
#   PYTHONS="python3.11 /opt/python3.12/bin/python" tests/on_each_interpreter.sh    these instead of what is found
set -uo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

found() {
    if [ -n "${PYTHONS:-}" ]; then
        printf '%s\n' $PYTHONS
        return
    fi
    type -aP python3.11 python3.12 python3
    ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3.1[12] 2> /dev/null
}

declare -A environment  # version -> folder
results=() failures=0
note() {  # note STATUS WHAT
    if [ "$1" -eq 0 ]; then results+=("passed  $2"); else results+=("FAILED  $2") failures=$((failures + 1)); fi
}

while read -r python; do
    version=$("$python" -c 'import platform; print(platform.python_version())' 2> /dev/null) || continue
    folder=.venvs/$version
    [ -z "${environment[$version]:-}" ] || continue
    if ! said=$("$python" requirements/check_python.py "$folder" 2>&1); then
        [ -z "${PYTHONS:-}" ] || { echo "$said" >&2; note 2 "Python $version"; }
        continue
    fi
    echo "== Python $version ($python)"
    environment[$version]=$folder
    make --no-print-directory test PYTHON="$python" VENV="$folder" ARGS="-q -m 'not slow' $*"
    note $? "Python $version: quick tests"
done < <(found)

if [ ${#environment[@]} -eq 0 ]; then
    echo "error: no accepted Python found; accepted: Python 3.11 or 3.12 in PATH, or PYTHONS=\"/path/to/python3.11 ...\"" >&2
    exit 2
fi

shared=$(mktemp -d)
trap 'rm -rf "$shared"' EXIT
for version in "${!environment[@]}"; do
    echo "== a checkpoint of Python $version"
    "${environment[$version]}/bin/python" -m tests.exchange write "$shared/$version"
    note $? "Python $version: writes a checkpoint"
done
for version in "${!environment[@]}"; do
    for writer in "${!environment[@]}"; do
        [ -d "$shared/$writer" ] || continue
        "${environment[$version]}/bin/python" -m tests.exchange read "$shared/$writer" "$shared/$writer.on.$version"
        note $? "Python $version: continues and converts the checkpoint of Python $writer"
    done
done

printf '%s\n' "${results[@]}"
exit $((failures > 0))
