"""The real node in its own process, as `make run` starts it, for tests that are its clients."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

ROOT = Path(__file__).resolve().parents[2]
READY = "ready "


@dataclass
class Node:
    """A running node and what its ready line said."""

    process: subprocess.Popen[str]
    log: Path
    host: str
    port: int
    aet: str
    aws: str
    bucket: str
    table: str

    def client(self, service: str) -> Any:
        """Make a boto3 client of the node's AWS."""
        make: Any = boto3.client
        return make(
            service,
            endpoint_url=self.aws,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def object_keys(self, prefix: str = "") -> list[str]:
        """List the bucket."""
        pages = self.client("s3").get_paginator("list_objects_v2")
        return [
            entry["Key"]
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix)
            for entry in page.get("Contents", [])
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment in which a command of ours speaks to this node's AWS."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "layers/core")]),
            "AWS_ENDPOINT_URL": self.aws,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "LENTICULAR_BUCKET": self.bucket,
            "LENTICULAR_TABLE": self.table,
            "LENTICULAR_AE_TITLE": self.aet,
            "LENTICULAR_HOST": self.host,
            "LENTICULAR_PORT": str(self.port),
        }


@contextmanager
def running_node(
    log: Path, *arguments: str, settings: Mapping[str, str] | None = None
) -> Iterator[Node]:
    """Start a node on free ports, wait for its ready line, stop it with SIGINT at the end.

    Unless a test asks for it, nothing is transcoded: most compare what came with what is kept.
    `settings` are environment variables.
    """
    if not any(each.startswith("Transcode=") for each in arguments):
        arguments = (*arguments, "--set", "Transcode=none")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.local", "--port", "0", "--aws-port", "0", *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "layers/core")]),
                "LENTICULAR_AUDIT_FILE": str(log.with_suffix(".audit")),
                **(settings or {}),
            },
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(READY), f"no ready line; see {log}: {log.read_text()[-2000:]}"
    # The rest of stdout is for people; it must not fill the pipe.
    reader = threading.Thread(target=process.stdout.read)
    reader.start()
    ready = json.loads(line.removeprefix(READY))
    host, _, port = ready["dimse"].rpartition(":")
    node = Node(
        process, log, host, int(port), ready["aet"], ready["aws"], ready["bucket"], ready["table"]
    )
    try:
        yield node
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        reader.join()
        process.stdout.close()
