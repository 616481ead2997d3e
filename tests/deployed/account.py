"""An AWS account offline: ministack in its own process, which executes templates and policies."""

import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3

from tests.cloud.deadline import eventually
from tests.peers.node_process import ROOT
from tests.peers.pki import Authority

ACCOUNT: Final = "123456789012"
REGION: Final = "eu-central-1"
#: The Python that ministack is installed in.
MINISTACK: Final = ROOT / ".venv-ministack/bin/python"
_ROOT_USER: Final = {"AWS_ACCESS_KEY_ID": "AKIAROOT", "AWS_SECRET_ACCESS_KEY": "the root's secret"}
_STOP_SECONDS: Final = 30


@dataclass(frozen=True)
class Decision:
    """What the account's policies decided of a call."""

    principal: str
    action: str
    resource: str
    sid: str
    allowed: bool

    @property
    def role(self) -> str:
        """The name of the role that called, arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION."""
        return self.principal.split("/")[1]


@dataclass(frozen=True)
class Account:
    """The account, and how to reach it.

    Attributes:
        environment: by which any AWS SDK and the SAM CLI are the account's root
        log: what ministack, and the functions in it, write
    """

    endpoint: str
    environment: Mapping[str, str]
    log: Path
    decisions_file: Path

    def client(self, service: str) -> Any:
        """Make a boto3 client of the account's root."""
        make: Any = boto3.client
        return make(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            verify=self.environment["AWS_CA_BUNDLE"],
        )

    def as_role(self, arn: str) -> dict[str, str]:
        """Assume a role as ECS does for a task; return the environment in which it is had."""
        found = self.client("sts").assume_role(RoleArn=arn, RoleSessionName="task")["Credentials"]
        return {
            **self.environment,
            "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
            "AWS_SESSION_TOKEN": found["SessionToken"],
        }

    def decisions(self) -> list[Decision]:
        """Return every decision so far on a call that was not the root's."""
        lines = self.decisions_file.read_text("utf-8").splitlines(keepends=True)
        return [Decision(**json.loads(line)) for line in lines if line.endswith("\n")]


@contextmanager
def running_account(folder: Path) -> Iterator[Account]:
    """Run ministack on a free port, with TLS, until the end of the block."""
    assert MINISTACK.exists(), "ministack is not installed: infra/setup.sh ministack"
    authority = Authority.create(folder)
    identity = authority.issue("account")
    own = {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(folder),
        "AWS_DEFAULT_REGION": REGION,
        # The SDKs of functions and of the SAM CLI, and obstore, which the gateway reaches S3 by.
        "AWS_CA_BUNDLE": str(authority.certificate),
        "SSL_CERT_FILE": str(authority.certificate),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        **_ROOT_USER,
    }
    log, decisions = folder / "ministack.log", folder / "decisions"
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening, log.open("w") as output:
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [MINISTACK, Path(__file__).with_name("ministack_server.py"),
             str(listening.fileno()), decisions],
            cwd=folder,
            env={
                **own,
                "AUTH": "true",
                "USE_SSL": "1",
                "MINISTACK_SSL_CERT": str(identity.certificate),
                "MINISTACK_SSL_KEY": str(identity.key),
                "GATEWAY_PORT": str(port),
                "MINISTACK_ACCOUNT_ID": ACCOUNT,
                "MINISTACK_REGION": REGION,
                "IOT_MTLS_ENABLED": "0",
                "SFTP_ENABLED": "0",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(listening.fileno(),),
            start_new_session=True,
        )  # fmt: skip
    endpoint = f"https://127.0.0.1:{port}"
    account = Account(
        endpoint,
        {
            **own,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        log,
        decisions,
    )
    try:
        eventually(lambda: _answers(process, port, authority), within=240)
        yield account
    finally:
        # Its functions too, which are processes of its session.
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(process: "subprocess.Popen[bytes]", port: int, authority: Authority) -> bool:
    assert process.poll() is None, "ministack has ended; see its log"
    context = ssl.create_default_context(cafile=str(authority.certificate))
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            context.wrap_socket(plain, server_hostname="localhost").close()
    except (ConnectionError, TimeoutError):
        return False
    return True
