"""Options of the whole suite, which pytest reads only from here, and the CPU unless the environment says otherwise."""

import os
import tempfile

# Before anything imports jax: a GPU would answer in lower precision, and the workers would fight for its memory.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Almost all of the time goes into compiling for few and tiny runs: the same programs, of machine code that nobody polished, take half.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if QUICK not in os.environ.get("XLA_FLAGS", ""):  # as in a worker, which has its master's
    os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()
# What one worker compiled the others of the same run need not.
if "PYTEST_XDIST_TESTRUNUID" in os.environ:
    compiled = os.path.join(tempfile.gettempdir(), f"champ_jax-{os.environ['PYTEST_XDIST_TESTRUNUID']}")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")


def pytest_addoption(parser):
    group = parser.getgroup("parity", "comparison with CHAMP's original modules")
    # pytest's own --fixtures lists fixture functions; it keeps its other name, --funcargs.
    group._arggroup.conflict_handler = "resolve"
    group.addoption("--fixtures", metavar="DIR", help="recorded outputs to compare with; tests/fixtures/champ_a by default")
    group.addoption("--parity-table", metavar="PATH", help="write the largest error of every output to PATH as a Markdown table")
