#!/usr/bin/env bash
# Runs the tests: ./launch/test.sh [pytest arguments], e.g. ./launch/test.sh -m slow, or ./launch/test.sh tests/parity.
# Makes the environment the first time. CHAMP_TEST_WORKERS=N tests at once (default: one a core, at most 4).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_venv dev dancers
cd "$REPO"

cores="$(getconf _NPROCESSORS_ONLN)"
workers="${CHAMP_TEST_WORKERS:-$((cores < 4 ? cores : 4))}"
# Every worker is a process of its own: more threads inside each would only get in each other's way.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

arguments=("$@")
[ "$#" -gt 0 ] || arguments=(-m "not slow")
exec python -m pytest -q -n "$workers" --dist loadfile "${arguments[@]}"
