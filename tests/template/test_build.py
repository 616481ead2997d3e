"""What `make build` makes is what Lambda takes, for either processor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.sam import ROOT

#: All layers and the function together, unzipped; Lambda's own limit is 250 MB.
MOST_BYTES = 50_000_000

IMPORT_HANDLER = """
import sys
sys.path[:0] = {folders!r}
import app, pydicom
import json
print(json.dumps([app.__file__, pydicom.__file__]))
"""


@pytest.fixture(scope="module", params=["arm64", "x86_64"])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the template for a processor; return where the build is."""
    folder = tmp_path_factory.mktemp("build")
    # An outer make must not hand its own options down.
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    done = subprocess.run(
        ["make", "build", f"ARCHITECTURE={request.param}", f"ARGS=--build-dir {folder}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("function", ["CommitFunction", "IndexFunction", "MppsFunction"])
def test_a_handler_loads_from_its_folder_and_layers_alone(build: Path, function: str) -> None:
    folders = [str(build / part) for part in (function, "CoreLayer/python", "DepsLayer/python")]
    # boto3 is this environment's; on Lambda it is the runtime's.
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_HANDLER.format(folders=folders)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert all(path.startswith(str(build)) for path in json.loads(loaded.stdout))


@pytest.mark.slow
def test_the_layer_of_wheels_serves_either_processor(build: Path) -> None:
    assert list((build / "DepsLayer").glob("python/*.dist-info/WHEEL"))
    assert not list(build.rglob("*.so"))


@pytest.mark.slow
def test_function_and_layers_fit_lambda(build: Path) -> None:
    files = (Path(root) / name for root, _, names in os.walk(build) for name in names)
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
