"""What the launch scripts do when training ends: start it again, or not; with stand-ins for the training."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.contract.source import REPOSITORY

LAUNCH = REPOSITORY / "launch"
PROGRAM = """#!/bin/bash
# Ends with the next of the exit codes in the file CODES; `wait` waits to be told, `stop` stops itself.
folder="$(dirname "$0")"
[ "$1" != -c ] || { echo "$RANDOM"; exit 0; }
list="$folder/codes${CHAMP_PROCESS:-}"
code="$(head -1 "$list")"
sed -i 1d "$list"
echo "${CHAMP_PROCESS:-} $CHAMP_RESTARTED ${CHAMP_COORDINATOR:-}" >>"$folder/log"
case "$code" in
    wait) trap 'exit "${ANSWER:-143}"' TERM; echo $$ >>"$folder/waiting"; while :; do sleep 0.1; done ;;
    stop) echo $$ >"$folder/stopped"; kill -STOP $$ ;;
    *) exit "$code" ;;
esac
"""


@pytest.fixture
def program(tmp_path) -> Path:
    """A stand-in for python, in a folder of its own; `codes(program, ...)` says how it ends."""
    path = tmp_path / "bin" / "python"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


def codes(program: Path, *of_processes: str) -> None:
    """'75 0' for one process: at first 75, then 0; several strings: one for each process of a cluster."""
    for index, text in enumerate(of_processes):
        name = f"codes{index}" if len(of_processes) > 1 else "codes"
        (program.parent / name).write_text(text.replace(" ", "\n") + "\n")


def log(program: Path) -> list[str]:
    return (program.parent / "log").read_text().splitlines()


def start(program: Path, *command: str, **settings) -> subprocess.Popen:
    path = f"{program.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": "stand-in", "PAUSE": "0", **settings}
    command = [str(LAUNCH / command[0]), *map(str, command[1:])]
    # Where the tests run in the background SIGINT is ignored, and a shell cannot trap what it was born ignoring.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=program.parent)
    finally:
        signal.signal(signal.SIGINT, heard)


def end(process: subprocess.Popen) -> tuple[int, str]:
    """The exit code and what was printed as an error."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def wait_for(path: Path, lines: int = 1) -> None:
    until = time.monotonic() + 60
    while not path.exists() or path.read_text().count("\n") < lines:
        assert time.monotonic() < until, f"{path} was waited for in vain"
        time.sleep(0.05)


# ---- supervise.sh ----


@pytest.mark.parametrize(
    ("answers", "code", "starts"),
    [
        ("0", 0, 1),
        ("75 75 0", 0, 3),
        ("134 137 139 0", 0, 4),
        ("75 2", 2, 2),
        ("2", 2, 1),
        ("78", 78, 1),
        ("143", 143, 1),
        ("1", 1, 1),
        ("130", 130, 1),
    ],
)
def test_what_can_go_on_is_started_again(program, answers, code, starts):
    codes(program, answers)
    assert end(start(program, "supervise.sh", program))[0] == code
    assert [line.split() for line in log(program)] == [[str(count)] for count in range(starts)]


def test_restarts_end_at_the_limit(program):
    codes(program, "75 75 75 75 75")
    code, errors = end(start(program, "supervise.sh", program, RESTARTS="2"))
    assert code == 75 and len(log(program)) == 3 and "giving up" in errors


def test_a_long_run_is_a_fresh_start(program):
    codes(program, "75 75 75 0")
    assert end(start(program, "supervise.sh", program, RESTARTS="1", STEADY="0"))[0] == 0


def test_no_restarts(program):
    codes(program, "75 0")
    assert end(start(program, "supervise.sh", program, RESTARTS="0"))[0] == 75 and len(log(program)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("answer", [75, 143])
def test_a_signal_reaches_the_training_and_ends_it_for_good(program, number, answer):
    codes(program, "wait 0")
    process = start(program, "supervise.sh", program, ANSWER=str(answer))
    wait_for(program.parent / "waiting")
    process.send_signal(number)
    assert end(process)[0] == answer and len(log(program)) == 1


def test_a_signal_between_two_starts_ends_it(program):
    codes(program, "75 0")
    process = start(program, "supervise.sh", program, PAUSE="60")
    wait_for(program.parent / "log")
    time.sleep(0.5)
    process.terminate()
    assert end(process)[0] == 75 and len(log(program)) == 1


# ---- local_cluster.sh ----


@pytest.mark.parametrize(
    ("of_processes", "code"),
    [
        (("0", "0", "0"), 0),
        (("75", "2", "134"), 2),
        (("78", "75", "0"), 78),
        (("75", "143", "75"), 143),
        (("134", "1", "75"), 1),
        (("0", "137", "134"), 75),
    ],
)
def test_the_code_of_a_cluster_is_the_gravest(program, of_processes, code):
    codes(program, *of_processes)
    assert end(start(program, "local_cluster.sh", 3, "a", "w", RESTARTS="0"))[0] == code
    assert len(log(program)) == 3


def test_a_process_that_does_not_end_is_killed(program):
    codes(program, "75", "stop", "wait")
    begun = time.monotonic()
    code, errors = end(start(program, "local_cluster.sh", 3, "a", "w", RESTARTS="0", GRACE="1"))
    assert code == 75 and "2 of 3 processes did not end" in errors and time.monotonic() - begun < 20
    stopped = int((program.parent / "stopped").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)


def test_a_cluster_starts_again_as_a_whole_at_another_port(program):
    codes(program, "134 0", "75 0")
    assert end(start(program, "local_cluster.sh", 2, "a", "w"))[0] == 0
    lines = [line.split() for line in log(program)]
    assert sorted(line[:2] for line in lines) == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]]
    assert len({line[2] for line in lines}) == 2


def test_a_signal_reaches_all_processes_of_a_cluster(program):
    codes(program, "wait 0", "wait 0")
    process = start(program, "local_cluster.sh", 2, "a", "w")
    wait_for(program.parent / "waiting", lines=2)
    process.terminate()
    assert end(process)[0] == 143 and len(log(program)) == 2


def test_a_cluster_of_no_number_is_refused(program):
    code, errors = end(start(program, "local_cluster.sh", "two", "a", "w"))
    assert code == 2 and "'two' is not a number of processes" in errors


# ---- train_slurm.sh ----

SRUN = """#!/bin/bash
# Two tasks; when the first one ended, the other is told to end. The exit code is the larger, as srun's.
shift
CHAMP_PROCESS=0 "$@"; first=$?
CHAMP_PROCESS=1 "$@"; second=$?
exit $((first > second ? first : second))
"""


TERMINATING_SRUN = """#!/bin/bash
# A task whose whole process group is told to end, as SLURM does before the time limit; the first time only.
shift
setsid "$@" &
if mkdir "$(dirname "$0")/once"; then
    until [ -e "$(dirname "$0")/waiting" ]; do sleep 0.05; done
    kill -TERM -- "-$!"
fi
wait "$!"
"""


def slurm(program: Path, srun: str, state: str = "RUNNING", **settings) -> tuple[int, str]:
    """Runs the batch script among stand-ins for what SLURM has."""
    folder = program.parent
    for name, text in {"srun": srun, "squeue": f"#!/bin/bash\necho {state}", "scontrol": '#!/bin/bash\necho "$@" >queued'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "champ-jax").symlink_to(program)
    job = f"test-{os.getpid()}"
    settings = {"CHAMP_VENV": str(folder.parent), "SLURM_JOB_ID": job, "SLURM_SUBMIT_DIR": str(REPOSITORY), **settings}
    result = end(start(program, "train_slurm.sh", "a", "w", **settings))
    assert not (REPOSITORY / f".slurm-{job}.code").exists()
    return result


@pytest.mark.parametrize(
    ("of_processes", "state", "code", "queued"),
    [
        (("0", "0"), "RUNNING", 0, False),
        (("2", "143"), "RUNNING", 2, False),
        (("78", "137"), "RUNNING", 78, False),
        (("75 0", "143 0"), "RUNNING", 0, False),
        (("143", "143"), "RUNNING", 143, True),
        (("143", "143"), "COMPLETING", 143, False),
    ],
)
def test_slurm(program, of_processes, state, code, queued):
    """The first code counts, not those of tasks that SLURM ended because of it."""
    codes(program, *of_processes)
    found, errors = slurm(program, SRUN, state)
    assert found == code, errors
    assert (program.parent / "queued").exists() == queued


def test_slurm_waits_for_a_task_that_saves(program):
    """Its own answer counts, 75 here to tell it from the 143 of a shell that was ended."""
    codes(program, "wait 0")
    code, errors = slurm(program, TERMINATING_SRUN, ANSWER="75")
    assert code == 0 and "ended with 75" in errors, errors


def test_slurm_outside_a_job(program):
    code, errors = end(start(program, "train_slurm.sh", "a", "w", SLURM_JOB_ID=""))
    assert code == 2 and "this is not a SLURM job" in errors
