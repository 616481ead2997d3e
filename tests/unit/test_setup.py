"""Setting up a machine: what is missing is installed where we may, or named in one sentence."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.run_uv import pip_settings, uv_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bare_machine(tmp_path: Path) -> Path:
    """Return the folder of programs of a machine that has a shell and little else."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "cksum", "dirname", "env"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    return programs


def add_program(programs: Path, name: str, line: str) -> None:
    path = programs / name
    path.write_text(f"#!/bin/sh\n{line}\n", "utf-8")
    path.chmod(0o755)


def set_up(programs: Path, *parts: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run infra/setup.sh in a clone that has nothing but it, with these programs only."""
    clone = programs.parent / "clone"
    (clone / "infra").mkdir(parents=True)
    (clone / "requirements").mkdir()
    for name in ("requirements/dev.lock", "pyproject.toml"):
        (clone / name).touch()
    script = shutil.copy(ROOT / "infra/setup.sh", clone / "infra")
    return subprocess.run(
        ["bash", script, *parts],
        env={"PATH": str(programs), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_root_a_missing_dcmtk_is_one_sentence_that_says_what_to_type(
    bare_machine: Path,
) -> None:
    add_program(bare_machine, "id", "echo 1000")
    add_program(bare_machine, "sudo", "exit 1")
    add_program(bare_machine, "apt-get", "exit 100")
    done = set_up(bare_machine, "dcmtk")
    assert done.returncode == 2
    assert done.stderr == "Please run: sudo apt-get install dcmtk\n"
    assert done.stdout == ""


def test_root_gets_dcmtk_from_debian(bare_machine: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    add_program(bare_machine, "id", "echo 0")
    add_program(bare_machine, "apt-get", f'echo "$@" >>{calls}')
    assert set_up(bare_machine, "dcmtk").returncode == 0
    update, install = calls.read_text("utf-8").splitlines()
    assert update.endswith("update")
    assert install.endswith("install dcmtk")


def test_what_is_there_is_not_installed_again(bare_machine: Path) -> None:
    add_program(bare_machine, "echoscu", "exit 0")
    done = set_up(bare_machine, "dcmtk")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_system_without_apt_is_told_what_to_install(bare_machine: Path) -> None:
    done = set_up(bare_machine, "dcmtk")
    assert done.returncode == 2
    assert "install dcmtk" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_python_that_is_too_old_is_one_sentence(bare_machine: Path) -> None:
    add_program(bare_machine, "old-python", "exit 1")
    done = set_up(bare_machine, "python", PYTHON="old-python")
    assert done.returncode == 2
    assert done.stderr == "PYTHON=old-python is no Python of 3.11 or newer.\n"


def test_a_commit_is_checked_as_make_lint_checks() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    [sources] = re.findall(r"^SOURCES := (.*)$", makefile, re.MULTILINE)
    [lint] = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    lint = lint.replace("$(VENV)", ".venv/bin").replace("$(SOURCES)", sources)
    [hooks] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    # The others are given the files that changed.
    whole = [hook["entry"] for hook in hooks["hooks"] if not hook.get("pass_filenames", True)]
    assert len(whole) == 3
    assert set(whole) <= {line.strip() for line in lint.splitlines()}


def test_pips_own_order_decides_which_setting_uv_gets() -> None:
    listing = (
        "global.index-url='https://one.example/simple'\n"
        "install.index-url='https://two.example/simple'\n"
        ":env:.cert='/etc/ssl/ours.pem'\n"
        "global.timeout='60'\n"
    )
    assert pip_settings(listing) == {
        "index-url": "https://two.example/simple",
        "cert": "/etc/ssl/ours.pem",
    }


def test_uv_gets_every_value_of_a_setting_that_has_several() -> None:
    listing = "global.extra-index-url='\\nhttps://one.example\\nhttps://two.example'\n"
    environment = uv_environment(pip_settings(listing), {})
    assert environment["UV_INDEX"] == "https://one.example https://two.example"


def test_what_the_caller_set_for_uv_wins() -> None:
    environment = uv_environment({"index-url": "https://pip.example"}, {"UV_DEFAULT_INDEX": "ours"})
    assert environment["UV_DEFAULT_INDEX"] == "ours"


def test_a_machine_without_pip_settings_gets_uvs_own_index() -> None:
    assert "UV_DEFAULT_INDEX" not in uv_environment(pip_settings(""), {"PATH": "/bin"})
