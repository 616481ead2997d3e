"""What `make build` makes is what Lambda takes, for either processor."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.sam import ROOT

#: What the codecs may take, and all layers and functions together, unzipped; Lambda's own limit for
#: one function and its layers is 250 MB.
MOST_BYTES_OF_CODECS = 150_000_000
MOST_BYTES = 200_000_000

MACHINES = {"arm64": b"\xb7\x00", "x86_64": b"\x3e\x00"}

#: The layers of each function.
LAYERS = dict.fromkeys(
    ("CommitFunction", "IndexFunction", "MppsFunction"), ("CoreLayer/python", "DepsLayer/python")
) | {"TranscodeFunction": ("CoreLayer/python", "DepsLayer/python", "CodecsLayer/python")}
#: Those of imagecodecs' extensions that lenticular/codecs.py calls, and the other packages.
CODECS = ("imagecodecs/_jpeg8", "imagecodecs/_jpegsof3", "imagecodecs/_jpegls",
          "imagecodecs/_jpeg2k", "imagecodecs/_htj2k", "imagecodecs/_imcd",
          "numpy/_core/_multiarray_umath", "rle/rle")  # fmt: skip

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
@pytest.mark.parametrize("function", LAYERS)
def test_a_handler_loads_from_its_folder_and_layers_alone(build: Path, function: str) -> None:
    folders = [str(build / part) for part in (function, *LAYERS[function])]
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
def test_the_codecs_that_frames_are_written_and_read_with_are_there(build: Path) -> None:
    site = build / "CodecsLayer/python"
    for codec in CODECS:
        # For Python 3.13, or for every one from some version on.
        (library,) = site.glob(f"{codec}.*so")
        assert any(mark in library.name for mark in ("cpython-313-", ".abi3."))
    # The Python that tests run on may be another one: only the Python code is loaded here.
    sources = (ROOT / "layers/core/lenticular/codecs.py").read_text("utf-8")
    called = {f"imagecodecs/_{each}" for each in re.findall(r"_imagecodecs\(\)\.(\w+?)_", sources)}
    called = {"imagecodecs/_imcd" if each.endswith("_dicomrle") else each for each in called}
    assert called == {each for each in CODECS if each.startswith("imagecodecs/")}


@pytest.mark.slow
def test_machine_code_is_in_the_codecs_alone_and_for_the_processor_that_was_asked_for(
    build: Path, request: pytest.FixtureRequest
) -> None:
    assert list((build / "DepsLayer").glob("python/*.dist-info/WHEEL"))
    assert not list((build / "DepsLayer").rglob("*.so"))
    asked_for = MACHINES[request.node.callspec.params["build"]]
    libraries = [path for path in build.rglob("*.so*") if path.is_file()]
    assert libraries
    for library in libraries:
        # e_machine of an ELF header.
        assert library.read_bytes()[18:20] == asked_for, library


@pytest.mark.slow
def test_the_codecs_fit_beside_the_other_layers(build: Path) -> None:
    assert size_of(build / "CodecsLayer") < MOST_BYTES_OF_CODECS


@pytest.mark.slow
def test_function_and_layers_fit_lambda(build: Path) -> None:
    assert size_of(build) < MOST_BYTES


def size_of(folder: Path) -> int:
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(path.stat().st_size for path in files)
