#!/usr/bin/env bash
# What only a GPU can show, in less than nine minutes: build with CUDA, tests of the Triton kernels
# and all other `gpu` tests (warnings are errors, as pyproject.toml has it), compute-sanitizer over
# our kernels, benches of the operations and their report.
#
#     benches/gpu_check.sh OUTDIR [WHEELS [PART...]]
#
# PART: of kernels, tests, sanitizer, benches (the default: all four) and steps, the benches of whole
# steps, which compile for minutes: ask for them alone. The build comes first in any case, the
# report of what was timed last.
# OUTDIR gets check.log, summary.json (each part's exit status, 124 for a time limit, and seconds)
# and, of the benches, benches.json, steps.json, report.md and speed-1.png. The script fails if a
# part did; where a part runs out of time, its results so far stay.
#
# For a machine with python3 3.12, PyTorch 2.11, Triton 3.6 and nvcc 13, and no package index.
# WHEELS (default .whl): folder with one wheel of each of these that the machine lacks, for Python
# 3.12 on x86-64, from `pip download --no-deps --only-binary=:all: --python-version 3.12 ...`:
#   to build: scikit-build-core pathspec packaging pybind11>=3 cmake ninja
#   to run:   numpy jsonargparse docstring-parser typeshed-client pyyaml nibabel pillow safetensors
#             rich markdown-it-py mdurl pygments scipy jinja2 markupsafe
#             matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil
#             tensorboard absl-py grpcio markdown protobuf tensorboard-data-server werkzeug
#   to test:  pytest iniconfig pluggy pytest-benchmark py-cpuinfo2 einops monai
#             hypothesis sortedcontainers
# Of the `test` extra, clang-format, mypy, ruff and types-pyyaml are not needed.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
wheels=$(cd "${2:-.whl}" && pwd) || exit 2
parts=("${@:3}")
[ "${#parts[@]}" -gt 0 ] || parts=(kernels tests sanitizer benches)
for name in "${parts[@]}"; do
    case $name in
    kernels | tests | sanitizer | benches | steps) ;;
    *) echo "expected kernels, tests, sanitizer, benches or steps, got '$name'" >&2 && exit 2 ;;
    esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Not a virtual environment: one made by the python3 of another does not see that one's packages.
export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}" PATH="$work/site/bin:$PATH"
export TORCHINDUCTOR_CACHE_DIR="$work/inductor" TRITON_CACHE_DIR="$work/triton"
# torch.compile looks into every module there is, of which jsonargparse's warn.
export JSONARGPARSE_DEPRECATION_WARNINGS=off
log=$out/check.log
: >"$log"
rm -f "$out"/{summary.json,benches.json,steps.json,report.md,speed-*.png}  # of an earlier run

summary=()
failed=0
# part NAME SECONDS COMMAND...: interrupted after so long, for pytest then writes what it has. The
# shell between them takes the second signal that timeout sends to its own child.
part() {
    local name=$1 limit=$2 started=$SECONDS status
    shift 2
    printf '\n===== %s: %s\n' "$name" "$*" >>"$log"
    timeout --signal=INT --kill-after=10 "$limit" bash -c '"$@"; exit' _ "$@" >>"$log" 2>&1
    status=$?
    [ "$status" -eq 0 ] || failed=1
    summary+=("\"$name\": {\"exit\": $status, \"seconds\": $((SECONDS - started))}")
    echo "$name: exit $status after $((SECONDS - started)) s"
    return "$status"
}

finish() {
    local IFS=,
    printf '{%s}\n' "${summary[*]}" >"$out/summary.json"
    exit "$failed"
}

# shellcheck disable=SC2329  # called by name
install() {
    local pip=(python3 -m pip install --no-index --no-deps --no-compile --target "$1")
    "${pip[@]}" "$2"/*.whl &&
        "${pip[@]}" --no-build-isolation -C cmake.define.RECYCLESEG_CUDA=ON . &&
        python3 - <<'PY'
# What is missing shows here, not as a test that skips or runs on the CPU.
import einops, hypothesis, jinja2, jsonargparse, matplotlib, monai, nibabel, pytest_benchmark, rich
import safetensors, scipy, torch, triton, yaml

from recycleseg.ops.build_info import build_info

assert torch.cuda.is_available(), "PyTorch sees no GPU"
info = build_info()
assert info["extension"]["cuda"], "the extension was built without CUDA"
print(torch.cuda.get_device_name(), info)
PY
}
export -f install

pytest=(python3 -m pytest -ra --durations=10)
# A library's warning is no failure of what it is compared with.
bench=("${pytest[@]}" -W default --full --benchmark-only --benchmark-max-time=0.2
    '--benchmark-columns=median,rounds,iterations')

part build 110 install "$work/site" "$wheels" || finish
for name in "${parts[@]}"; do
    case $name in
    kernels)
        part kernels 100 "${pytest[@]}" tests/kernels --ignore=tests/kernels/test_aot.py
        ;;
    tests) part tests 70 "${pytest[@]}" tests -m gpu --ignore=tests/kernels ;;
    sanitizer)
        # Without PyTorch's caching, every tensor is an allocation whose bounds are checked.
        part sanitizer 50 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
            compute-sanitizer --error-exitcode 9 "${pytest[@]}" \
            tests/ops/test_{overlap_counts,distance_transform,ensemble_vote}.py tests/kernels \
            -k 'cuda-cuda and shape or written or layout or through_a_view or tiles'
        ;;
    benches) # not norm_act, which on a GPU has no kernel of ours
        part benches 190 "${bench[@]}" --benchmark-json="$out/benches.json" \
            benches/bench_{copy,noise_step,ddim_update,dice_loss,overlap_counts}.py \
            benches/bench_{distance_transform,ensemble_vote}.py
        ;;
    steps)
        part steps 410 "${bench[@]}" --benchmark-json="$out/steps.json" \
            benches/bench_{sampler,train_step}.py
        ;;
    esac
done

results=()
for name in benches steps; do
    [ ! -s "$out/$name.json" ] || results+=("$out/$name.json")
done
if [ "${#results[@]}" -gt 0 ]; then
    part report 10 python3 benches/report.py "${results[@]}" --out "$out"
fi
finish
