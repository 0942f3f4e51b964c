#!/usr/bin/env bash
# Trains stages A, B and C on the committed demo, dances, animates unseen people and scores it all: about 10 minutes on
# 2 cores after the installation. Stopped, it goes on where it was. Results: runs/quickstart of the repository, or --out DIR.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_venv dev dancers

exec python -m champ_jax quickstart --out "$REPO/runs/quickstart" "$@"
