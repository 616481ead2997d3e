"""The locks pin every package by version and hash, agree with each other, and name no registry."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEV = ROOT / "requirements/dev.lock"
LAYERS = sorted((ROOT / "layers").glob("*/requirements.txt"))
LOCKS = [*sorted((ROOT / "requirements").glob("*.lock")), *LAYERS]
#: requirement, marker, hashes: as uv writes it.
ENTRY = re.compile(
    r"^([a-z0-9.-]+)==(\S+)[^\n]*((?:\\\n    --hash=sha256:[0-9a-f]{64} ?)+)$", re.MULTILINE
)


def versions(lock: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version, _ in ENTRY.findall(lock.read_text("utf-8")):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_lock_holds_versions_and_hashes_and_nothing_else(lock: Path) -> None:
    text = lock.read_text("utf-8")
    assert versions(lock)
    assert ENTRY.sub("", text).strip() == ""


def test_the_record_of_locks_names_every_one() -> None:
    [record] = (ROOT / "infra/decisions").glob("0002-*.md")
    named = re.findall(r"^\| `([\w/.]+)` \|", record.read_text("utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in LOCKS)


@pytest.mark.parametrize(
    "lock",
    [ROOT / "requirements/gateway.lock", ROOT / "requirements/installer.lock", *LAYERS],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_what_is_deployed_and_what_is_tested_are_the_same_versions(lock: Path) -> None:
    tested = versions(DEV)
    for package, deployed in versions(lock).items():
        assert deployed <= tested.get(package, set()), package


def test_every_direct_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    declared = list(project["project"]["dependencies"])
    for group in ("local", "dev", "uv", "layer", "codecs"):
        declared += [each for each in project["dependency-groups"][group] if isinstance(each, str)]
    names = {re.split(r"[\[<>=]", each)[0] for each in declared}
    assert names <= versions(DEV).keys()
