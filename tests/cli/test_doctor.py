"""`champ-jax doctor`: everything is fine here, and what is made wrong gets its line and its fix."""

import importlib.metadata
import json
import os
import shutil

import pytest
from packaging.requirements import Requirement

from champ_jax.cli import doctor
from champ_jax.cli.main import main


def installed() -> bool:
    try:
        return bool(importlib.metadata.distribution("champ-jax"))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not installed(), reason="the package is not installed here (pip install -e .)")
def test_a_good_installation_passes(tmp_path, capsys):
    assert main(["doctor", "--workdir", str(tmp_path), "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert all(check["ok"] for check in checks.values())
    assert {"python", "jax", "orbax-checkpoint", "devices", "memory", "write access", "disk", "song formats",
            "video encoders", "a step"} <= set(checks)  # fmt: skip


def test_a_failed_check_has_its_fix_and_exit_code_1(monkeypatch, tmp_path, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1e6))
    monkeypatch.setattr(doctor, "versions", lambda: iter(()))
    assert main(["doctor", "--workdir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAIL  disk: 0.0 GB free" in out
    assert "fix: free at least 3 GB" in out


def test_a_check_that_breaks_is_a_failed_line(monkeypatch, tmp_path, capsys):
    def video_codecs():
        raise ImportError("libav is broken")
        yield

    monkeypatch.setattr(doctor, "video_codecs", video_codecs)
    assert main(["doctor", "--workdir", str(tmp_path)]) == 1
    assert "FAIL  video codecs: ImportError: libav is broken" in capsys.readouterr().out


@pytest.mark.parametrize(("requirement", "ok"), [("numpy>=1", True), ("numpy<1", False), ("no-such-package-of-ours>=1", False)])
def test_versions_against_ranges(requirement, ok):
    check = doctor._version(Requirement(requirement))
    assert check.ok is ok
    assert check.fix == f"pip install '{Requirement(requirement)}'"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_access(tmp_path):
    tmp_path.chmod(0o500)
    check = next(doctor.disk(tmp_path / "run"))
    assert not check.ok and "--workdir" in check.fix
