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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests.cloud.deadline import eventually
from tests.peers import dcmtk, pynetdicom_peer
from tests.peers.instances import study
from tests.peers.node_process import ROOT, Node, running_node
from tests.ports import free_port

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


@dataclass(frozen=True)
class Container:
    """The gateway in a running container, on the cloud of an offline node."""

    name: str
    gateway: Node
    process: subprocess.Popen[str]
    health_port: int
    log: Path

    def inside(self, program: str) -> str:
        """Run a line of Python in it, and return what that printed."""
        return run(*_PODMAN, "exec", self.name, "python3", "-c", program).strip()


Start = Callable[..., Container]


@pytest.fixture
def start(image: str, tmp_path: Path) -> Iterator[Start]:
    """Return what runs the image as infra/gateway.yaml does: no root, nothing writable."""
    with ExitStack() as running:

        def start(**more: str) -> Container:
            health_port = free_port()
            node = running.enter_context(running_node(tmp_path / "node.log"))
            settings = {
                **{k: v for k, v in node.environment().items() if k not in os.environ},
                "LENTICULAR_ACCESS": "open",
                "LENTICULAR_PORT": "0",
                "LENTICULAR_HEALTH_PORT": str(health_port),
                "LENTICULAR_SCRATCH_DIR": "/scratch",
                "LENTICULAR_MEMORY_BYTES": str(64 * 1024),
                **more,
            }
            settings.pop("PYTHONPATH", None)
            name = f"lenticular-{os.getpid()}-{health_port}"
            command = [*_PODMAN, "run", "--rm", f"--name={name}", "--network=host", "--read-only"]
            command += ["--cap-drop=ALL", "--ulimit=nofile=1024:1024", "--ulimit=nproc=512:512"]
            command += [f"--env={key}={value}" for key, value in settings.items()]
            log = tmp_path / "container.log"
            with log.open("w") as stderr:
                process = subprocess.Popen(
                    [*command, image], stdout=subprocess.PIPE, stderr=stderr, text=True
                )
            running.callback(_end, process, name)
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text("utf-8")
            gateway = replace(node, port=json.loads(line)["port"])
            return Container(name, gateway, process, health_port, log)

        yield start


def _end(process: subprocess.Popen[str], name: str) -> None:
    subprocess.run([*_PODMAN, "kill", name], capture_output=True, check=False)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_the_image_verifies_stores_and_drains(start: Start, tmp_path: Path) -> None:
    container = start()
    gateway = container.gateway
    assert container.inside("import os; print(os.getuid(), os.getgid())") == "10001 10001"
    mount = "next(line.split() for line in open('/proc/mounts') if line.split()[1] == '/')"
    assert "ro" in container.inside(f"print({mount}[3])").split(",")
    dcmtk.echo(gateway)
    instances = study(tmp_path / "sent", 3, size=256 << 10)
    assert dcmtk.store(gateway, *(instance.path for instance in instances)) == [0, 0, 0]
    assert {instance.key for instance in instances} <= set(gateway.object_keys())

    def ready() -> int:
        with urlopen(f"http://127.0.0.1:{container.health_port}/ready", timeout=5) as answer:
            return int(answer.status)

    eventually(ready, until=lambda status: status == 200)
    [last] = study(tmp_path / "last", 1)
    contexts = [(CTImageStorage, ExplicitVRLittleEndian)]
    with pynetdicom_peer.association(gateway, contexts) as opened:
        container.process.send_signal(signal.SIGTERM)
        # It listens no more, and still takes what comes on the association that there is.
        eventually(lambda: not dcmtk.listens(gateway.port))
        assert opened.send_c_store(last.path).Status == 0
    assert container.process.wait(timeout=30) == 0
    assert last.key in gateway.object_keys()


@pytest.mark.parametrize(("validation", "status"), [("warn", 0xB007), ("reject", 0xA900)])
def test_the_image_holds_instances_against_their_iod(
    start: Start, tmp_path: Path, validation: str, status: int
) -> None:
    gateway = start(LENTICULAR_VALIDATION=validation).gateway
    # One that fits into memory and one that does not: both go to the validator as files.
    [short], [long] = study(tmp_path / "short", 1), study(tmp_path / "long", 1, size=256 << 10)
    valid = Path(str(get_testdata_file("CT_small.dcm")))
    statuses = dcmtk.store(gateway, short.path, valid, long.path, options=("-nh",))
    assert statuses == [status, 0, status]
    kept = {short.key, long.key} & set(gateway.object_keys())
    assert kept == ({short.key, long.key} if validation == "warn" else set())
    assert len(gateway.object_keys("instances/")) == len(kept) + 1
