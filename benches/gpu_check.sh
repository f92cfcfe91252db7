#!/usr/bin/env bash
# All that only a GPU can show, in one go: build with CUDA, `gpu` tests, compute-sanitizer over the
# extension's tests, benches. For a machine with PyTorch, nvcc and no package index.
#
#     benches/gpu_check.sh OUTDIR [WHEELS]
#
# WHEELS: folder with wheels of whatever the machine lacks of the project's requirements and its
# `test` extra (default .whl). OUTDIR gets build.log, tests.xml, sanitizer.log, benches.json and
# summary.json, in which each part's exit status stands; the script fails if any part did.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
wheels=$(cd "${2:-.whl}" && pwd) || exit 2

venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv --system-site-packages "$venv" && . "$venv/bin/activate" || exit 2

declare -A status
part() {
    local name=$1 limit=$2
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status[$name]=$?
    echo "$name: exit ${status[$name]}"
}

install() {
    python -m pip install --no-index --no-deps "$wheels"/*.whl &&
        python -m pip install --no-index --no-deps --no-build-isolation \
            -C cmake.define.RECYCLESEG_CUDA=ON .
}
export -f install
export wheels

part build 150 bash -c install
part tests 120 python -m pytest -m gpu --junitxml="$out/tests.xml"
part sanitizer 90 compute-sanitizer --error-exitcode 9 python -m pytest -m gpu tests/ops
part benches 170 python -m pytest benches --benchmark-only --benchmark-json="$out/benches.json"

failed=0
{
    printf '{'
    separator=''
    for name in build tests sanitizer benches; do
        printf '%s"%s": %d' "$separator" "$name" "${status[$name]}"
        separator=', '
        [ "${status[$name]}" -eq 0 ] || failed=1
    done
    printf '}\n'
} >"$out/summary.json"
exit "$failed"
