"""The gateway's image, built without a container engine's daemon and run as ECS runs it.

`make test-image` runs this; it needs root and Debian's mmdebstrap, buildah, podman and runc. The
base is a Debian made on the spot, so that no registry of images is asked.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.conftest import free_port
from tests.peers.instances import study
from tests.peers.node_process import ROOT, Node, running_node

pytestmark = pytest.mark.image

_BASE = "localhost/lenticular-test-base:latest"
_IMAGE = "localhost/lenticular-test-gateway:latest"
_PODMAN = ["podman", "--cgroup-manager=cgroupfs", "--runtime=runc"]


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr[-3000:]}"
    return done.stdout


def pip_files() -> set[str]:
    """Return pip's configuration files and the files they name, such as certificates.

    A build needs them where the way to the package index has a certificate of its own.
    """
    pip = (sys.executable, "-m", "pip", "config")
    named = re.findall(r"^\s+(\S+), exists: True$", run(*pip, "debug"), re.MULTILINE)
    values = re.findall(r"='(/.+)'$", run(*pip, "list"), re.MULTILINE)
    return {*named, *(value for value in values if Path(value).is_file())}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image on a minimal Debian."""
    base = tmp_path_factory.mktemp("base") / "base.tar"
    packages = "python3,python3-pip,ca-certificates"
    run("mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(base))
    run("podman", "--cgroup-manager=cgroupfs", "import", str(base), _BASE)
    volumes = [f"--volume={name}:{name}:ro" for name in sorted(pip_files())]
    run(
        *("buildah", "bud", "--isolation=chroot", "--format=docker", f"--build-arg=BASE={_BASE}"),
        *(*volumes, "--file=gateway/Dockerfile", f"--tag={_IMAGE}", "."),
    )
    return _IMAGE


@pytest.fixture
def container(image: str, tmp_path: Path) -> Iterator[tuple[Node, subprocess.Popen[str], int]]:
    """Run the image on an offline node as infra/gateway.yaml does: no root, nothing writable."""
    health_port = free_port()
    with running_node(tmp_path / "node.log") as node:
        settings = {
            **{k: v for k, v in node.environment().items() if k not in os.environ},
            "LENTICULAR_ACCESS": "open",
            "LENTICULAR_PORT": "0",
            "LENTICULAR_HEALTH_PORT": str(health_port),
            "LENTICULAR_SCRATCH_DIR": "/scratch",
            "LENTICULAR_MEMORY_BYTES": str(64 * 1024),
        }
        settings.pop("PYTHONPATH", None)
        name = f"lenticular-{os.getpid()}"
        command = [*_PODMAN, "run", "--rm", f"--name={name}", "--network=host", "--read-only"]
        command += ["--cap-drop=ALL", "--ulimit=nofile=1024:1024", "--ulimit=nproc=512:512"]
        command += [f"--env={key}={value}" for key, value in settings.items()]
        with (tmp_path / "container.log").open("w") as log:
            process = subprocess.Popen(
                [*command, image], stdout=subprocess.PIPE, stderr=log, text=True
            )
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline() or "{}")
            try:
                assert ready, (tmp_path / "container.log").read_text("utf-8")
                yield replace_port(node, ready["port"]), process, health_port
            finally:
                subprocess.run([*_PODMAN, "kill", name], capture_output=True, check=False)
                process.wait()
                process.stdout.close()


def replace_port(node: Node, port: int) -> Node:
    return Node(
        node.process, node.log, node.host, port, node.aet, node.aws, node.bucket, node.table
    )


def test_the_image_verifies_stores_and_drains(
    container: tuple[Node, subprocess.Popen[str], int], tmp_path: Path
) -> None:
    gateway, process, health_port = container
    dcmtk.echo(gateway)
    instances = study(tmp_path, 3, size=256 << 10)
    assert dcmtk.store(gateway, *(instance.path for instance in instances)) == [0, 0, 0]
    assert {instance.key for instance in instances} <= set(gateway.object_keys())

    def ready() -> int:
        with urlopen(f"http://127.0.0.1:{health_port}/ready", timeout=5) as answer:
            return int(answer.status)

    eventually(ready, until=lambda status: status == 200)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
