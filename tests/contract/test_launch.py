"""The launch scripts: they parse, and say what is wrong on a machine that cannot run them."""

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.contract.source import REPOSITORY

LAUNCH = REPOSITORY / "launch"
OVERRIDES = ["--config.loss.condition_scale=(0.5,1.0,0.3)", '--config.note=it\'s $HOME "now"']
"""Values that every layer of shells between here and the training would spoil if it were not quoted."""
SCRIPTS = sorted(LAUNCH.glob("*.sh")) + [REPOSITORY / ".ci" / "run"]


def bash(code: str, **environment) -> subprocess.CompletedProcess:
    """Runs `code` after env.sh was sourced."""
    command = ["bash", "-c", f'source "{LAUNCH}/env.sh"; {code}']
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd="/")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_parses_and_can_be_run(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.name == "env.sh" or script.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_tests_that_it_names_are_there(script):
    named = re.findall(r"\btests/[\w/]+(?:\.py)?", script.read_text())
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_shellcheck_finds_nothing():
    checker = Path(sys.executable).parent / "shellcheck"
    command = str(checker) if checker.exists() else "shellcheck"
    done = subprocess.run([command, *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_repository_is_found_from_any_directory():
    assert bash('echo "$REPO"').stdout.strip() == str(REPOSITORY)


def only(folder, *programs) -> str:
    """A PATH with these programs of the system and nothing else."""
    for name in programs:
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


def test_a_wrong_python_is_named(tmp_path):
    path = only(tmp_path, "bash", "dirname", "tail")
    old = tmp_path / "python3"
    old.write_text('#!/bin/bash\n[ "$1" = -V ] && echo "Python 3.9.1"\nexit 1\n')
    old.chmod(0o755)
    done = bash("find_python", PATH=path, PYTHON="")
    assert done.returncode == 2
    assert "error: Python 3.11, 3.12 or 3.13 is needed. Found: python3 (Python 3.9.1)" in done.stderr


def test_no_python_at_all(tmp_path):
    done = bash("find_python", PATH=only(tmp_path, "bash", "dirname", "tail"), PYTHON="")
    assert done.returncode == 2
    assert "Found: none" in done.stderr


def test_a_full_disk_is_said_before_installing():
    done = bash("NEEDED_MB=999999999; check_disk; echo went on")
    assert done.returncode == 2
    assert "999999999 MB are needed" in done.stderr and "went on" not in done.stdout


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken", "packages cannot be downloaded: check the network"),
        ("ERROR: something else", "installing failed, see"),
    ],
)
def test_what_pip_says_becomes_one_line(tmp_path, output, message):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/bash\necho '{output}'\nexit 1\n")
    python.chmod(0o755)
    done = bash("install anything", CHAMP_VENV=str(tmp_path))
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr


def script(name: str, *arguments: str, **environment) -> subprocess.CompletedProcess:
    """Runs a launch script; settings of the machine that runs the tests do not reach it."""
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "FLAGS")}
    command = [str(LAUNCH / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**clean, **environment}, timeout=60)


def fake(folder: Path, name: str, code: str) -> None:
    """A program of this name that does something else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{code}\n")
    (folder / name).chmod(0o755)


def fakes_first(folder: Path) -> str:
    return f"{folder}:{os.environ['PATH']}"


def test_hosts_that_share_a_folder_make_the_environment_once(tmp_path):
    venv = tmp_path / "venv"
    code = f"""
make_venv() {{
    echo made >>{tmp_path}/log
    sleep 0.5
    mkdir -p "$VENV/bin"
    touch "$VENV/bin/activate"
    echo "$2" >"$VENV/champ_jax.stamp"
}}
venv_works() {{ [ -e "$VENV/bin/activate" ]; }}
ensure_venv dev & ensure_venv dev & wait; ensure_venv dev; ensure_venv tpu
"""
    done = bash(code, CHAMP_VENV=str(venv))
    assert (tmp_path / "log").read_text() == "made\nmade\n", "once for dev, once for tpu"
    assert "waiting for another process" in done.stdout


# ---- Flags ----


def test_every_flag_has_its_reason():
    lines = [line for line in (LAUNCH / "xla_flags.txt").read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert line.split()[0] in ("gpu", "tpu", "slices") and " # " in line, line


def test_flags_are_read_from_the_file_and_the_users_own_come_last(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("gpu --a=1 # one\n\ngpu --b=2 # two\ntpu --c=3 # three\nslices --d=4 # four\n")
    show = 'use_flags {}; echo "${{FLAG_SETTINGS[@]}}"'
    assert bash(show.format("gpu"), FLAGS=str(own), XLA_FLAGS="--x=y").stdout == "XLA_FLAGS=--a=1 --b=2 --x=y\n"
    assert bash(show.format("tpu"), FLAGS=str(own), LIBTPU_INIT_ARGS="").stdout == "LIBTPU_INIT_ARGS=--c=3\n"
    assert bash(show.format("tpu slices"), FLAGS=str(own), LIBTPU_INIT_ARGS="").stdout == "LIBTPU_INIT_ARGS=--c=3 --d=4\n"
    assert bash(show.format("gpu"), FLAGS="none", XLA_FLAGS="--x=y").stdout == "XLA_FLAGS=--x=y\n"
    missing = bash(show.format("gpu"), FLAGS="/nowhere")
    assert missing.returncode == 2 and "FLAGS=/nowhere cannot be read" in missing.stderr


def test_jax_knows_the_gpu_flags():
    """An unknown flag ends the process; XLA knows those of GPUs in its build for CPUs too."""
    flags = bash("flags_of gpu").stdout.strip()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True, text=True)
    assert flags and done.returncode == 0, done.stderr


# ---- Dry runs ----

TRAINING = {
    "train_gpu.sh": {},
    "train_slurm.sh": {},
    "train_tpu_pod.sh": {"SLICES": "2"},
    "local_cluster.sh": {"DEVICES": "2"},
}


@pytest.mark.parametrize("name", TRAINING)
def test_a_dry_run_prints_what_would_be_started(name, tmp_path):
    fake(tmp_path, "python", "exit 99")
    first = ["2"] if name == "local_cluster.sh" else []
    settings = {"DRY_RUN": "1", "PATH": fakes_first(tmp_path), **TRAINING[name]}
    done = script(name, *first, "stage_b", "/shared/my run", *OVERRIDES, **settings)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.splitlines()[0])
    assert words[words.index("--config") : words.index("--config") + 6] == [
        "--config", "stage_b", "--workdir", "/shared/my run", *OVERRIDES]  # fmt: skip
    assert ("--multihost" in words) == (name != "train_gpu.sh")
    if name != "local_cluster.sh":
        assert str(LAUNCH / "supervise.sh") in words
        assert any(word.startswith(("XLA_FLAGS=--", "LIBTPU_INIT_ARGS=--")) for word in words)


def test_several_gpu_machines_without_a_scheduler():
    done = script("train_gpu.sh", "stage_b", "/shared/b", DRY_RUN="1", CHAMP_COORDINATOR="one:8476")
    assert "--multihost" in done.stdout


@pytest.mark.parametrize("name", [*TRAINING, "tpu_pod.sh", "gke_jobset.sh", "supervise.sh"])
def test_wrong_arguments_show_the_usage(name):
    done = script(name, VIRTUAL_ENV="x")
    assert done.returncode == 2 and "error: usage: " in done.stderr and name in done.stderr


# ---- TPU pods ----


def test_tpu_pod_dry_run(tmp_path):
    fake(tmp_path, "gcloud", "exit 99")
    settings = {"DRY_RUN": "1", "ZONE": "us-west4-a", "PATH": fakes_first(tmp_path)}
    one = script("tpu_pod.sh", "create", "big", **settings, TYPE="v5litepod-16").stdout
    assert "queued-resources create big --zone=us-west4-a --accelerator-type=v5litepod-16" in one and "--node-id=big" in one
    two = script("tpu_pod.sh", "create", "big", **settings, SLICES="2", SPOT="1").stdout
    assert "--node-count=2 --node-prefix=big --spot" in two
    ran = script("tpu_pod.sh", "run", "big", "stage_b", "/mnt/champ/b", *OVERRIDES, **settings, SLICES="2", NFS="10.0.0.2:/s")
    assert ran.returncode == 0, ran.stderr
    for word in (" scp ", "big-0:champ_jax.tar.gz", "big-1:champ_jax.tar.gz", "--worker=all", "mount -t nfs", "SLICES=2"):
        assert word in ran.stdout
    assert "--force --quiet" in script("tpu_pod.sh", "delete", "big", **settings).stdout


def test_tpu_pod_says_what_is_missing():
    assert "ZONE is not set" in script("tpu_pod.sh", "create", "big", ZONE="").stderr
    assert "no such action: start" in script("tpu_pod.sh", "start", "big", ZONE="z", DRY_RUN="1").stderr


def test_tpu_pod_run_brings_the_arguments_to_the_host_as_they_are(tmp_path):
    """A stand-in for gcloud does what ssh does: it gives the command to a shell in the host's home folder."""
    home = tmp_path / "home"
    fake(home / "champ_jax" / "launch", "train_tpu_pod.sh", 'printf "%s\\n" "$SLICES" "$@"; exec sleep 30')
    fake(tmp_path / "bin", "gcloud", f"""
for word in "$@"; do
    case "$word" in --command=*ensure_venv* | --command=*tar* | --command=*apt-get*) ;;
    --command=*) cd {home} && exec bash -c "${{word#--command=}}" ;; esac
done""")  # fmt: skip
    settings = {"ZONE": "z", "PATH": fakes_first(tmp_path / "bin")}
    done = script("tpu_pod.sh", "run", "big", "stage_b", "/mnt/champ/b", *OVERRIDES, **settings)
    assert done.returncode == 0, done.stderr
    log, process = home / "champ_jax.log", int((home / "champ_jax.pid").read_text())
    try:
        wait_for(lambda: log.exists() and log.read_text().count("\n") == 5)
        assert log.read_text().splitlines() == ["1", "stage_b", "/mnt/champ/b", *OVERRIDES]
    finally:
        os.kill(process, signal.SIGKILL)


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# ---- JobSets ----


def jobset(*arguments: str, **settings) -> dict:
    """The manifest that a dry run prints."""
    done = script("gke_jobset.sh", *arguments, DRY_RUN="1", IMAGE="registry/champ", VOLUME="work", **settings)
    assert done.returncode == 0, done.stderr
    first, *manifest, last = done.stdout.splitlines()
    assert first == "kubectl apply -f - <<'END'" and last == "END"
    return yaml.safe_load("\n".join(manifest))


def parts(manifest: dict) -> tuple[dict, dict, dict]:
    """The replicated job, its pod, the pod's container."""
    job = manifest["spec"]["replicatedJobs"][0]
    pod = job["template"]["spec"]["template"]["spec"]
    return job, pod, pod["containers"][0]


def test_jobset_of_tpu_slices():
    overrides = [*OVERRIDES, "--config.note=$(HOME)"]
    manifest = jobset("apply", "big", "stage_b", "/mnt/champ/b", *overrides,
                      ACCELERATOR="tpu-v5-lite-podslice", TOPOLOGY="16x16", SLICES="2", SPOT="1", QUEUE="all")  # fmt: skip
    job, pod, container = parts(manifest)
    assert job["replicas"] == 2 and job["template"]["spec"]["completions"] == 64
    assert container["command"] == [
        "launch/train_tpu_pod.sh", "stage_b", "/mnt/champ/b", *OVERRIDES, "--config.note=$$(HOME)"]  # fmt: skip
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["terminationGracePeriodSeconds"] == 120
    assert {"name": "SLICES", "value": "2"} in container["env"]
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "all"}


def test_jobset_starts_again_unless_that_cannot_help():
    manifest = jobset("apply", "big", "stage_b", "/mnt/champ/b", GPU="nvidia-h100-80gb", NODES="4")
    job, pod, container = parts(manifest)
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 50
    assert policy["rules"] == [{"name": "stop", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    codes = job["template"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes == {"containerName": container["name"], "operator": "In", "values": [1, 2, 78, 130]}
    assert pod["restartPolicy"] == "Never", "a pod failure policy needs it"


def test_jobset_of_gpu_nodes_tells_each_process_who_it_is():
    job, _, container = parts(jobset("apply", "big", "stage_b", "/mnt/champ/b", GPU="nvidia-h100-80gb", NODES="4"))
    environment = {entry["name"]: entry for entry in container["env"]}
    assert environment["CHAMP_COORDINATOR"]["value"] == "big-node-0-0.big:8476"
    assert environment["CHAMP_PROCESSES"]["value"] == "4" and job["template"]["spec"]["parallelism"] == 4
    assert "job-completion-index" in environment["CHAMP_PROCESS"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["command"][0] == "launch/train_gpu.sh"


def test_xpk_is_given_one_line_of_shell():
    done = script("gke_jobset.sh", "xpk", "big", "stage_b", "/mnt/champ/b", *OVERRIDES, DRY_RUN="1", CLUSTER="c", IMAGE="i")
    words = shlex.split(done.stdout)
    assert "--restart-on-exit-codes=75" in words and "--max-restarts=50" in words
    command = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(command)[-4:] == ["stage_b", "/mnt/champ/b", *OVERRIDES]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "IMAGE is not set"),
        ({"IMAGE": "i", "VOLUME": "v"}, "GPU is not set"),
        ({"IMAGE": "i", "VOLUME": "v", "ACCELERATOR": "a", "TOPOLOGY": "1x1"}, "TOPOLOGY=1x1 has fewer than CHIPS=4 chips"),
    ],
)
def test_jobset_says_what_is_missing(settings, message):
    done = script("gke_jobset.sh", "apply", "big", "stage_b", "/b", DRY_RUN="1", **settings)
    assert done.returncode == 2 and f"error: {message}" in done.stderr and "kubectl" not in done.stdout
