#!/usr/bin/env bash
# Builds the documentation, with the reference from docstrings, into site/: ./launch/docs.sh. Any warning is an error.
# ./launch/docs.sh serve shows it at http://127.0.0.1:8000 and builds it again whenever a page or a docstring changes.
# Makes the environment the first time.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

arguments=(build --quiet --strict)
case "${1:-}" in
    "") ;;
    serve) arguments=(serve --watch champ_jax) ;;
    *) fail "usage: launch/docs.sh [serve]" ;;
esac
ensure_venv dev dancers
cd "$REPO"

# The theme's maker announces other programs of theirs above every build.
export NO_MKDOCS_2_WARNING=1
python -m mkdocs "${arguments[@]}"
[ "${arguments[0]}" = serve ] || echo "open $REPO/site/index.html; its search works with launch/docs.sh serve"
