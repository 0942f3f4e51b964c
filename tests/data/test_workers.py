"""Worker processes leave the accelerator alone."""

import os
import subprocess
import sys


def test_a_worker_uses_the_cpu_also_where_jax_was_imported_before():
    code = "import jax\nfrom champ_jax.data.workers import become_worker\nbecome_worker()\nprint(jax.config.jax_platforms)"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu"]
