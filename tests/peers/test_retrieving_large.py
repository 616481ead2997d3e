"""An instance of any length is retrieved in parts, and memory does not grow with it."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from lenticular.archive import Archive, InstanceKey
from lenticular.element_headers import encode_header
from lenticular.elements import encode_element
from lenticular.header import read_copy
from lenticular.index import Index
from lenticular.index_items import Copy
from lenticular.part10 import file_head
from tests.cloud.standin import offline_cloud
from tests.peers import dcmtk
from tests.peers.destination import counts, requestor, responses
from tests.peers.gateway_process import Stores, running_gateway
from tests.peers.node_process import ROOT
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = [pytest.mark.peers, pytest.mark.slow]

STUDY = "1.2.826.0.1.92"
KEY = InstanceKey(STUDY, f"{STUDY}.1", f"{STUDY}.1.1", "0" * 64)
PIXEL_BYTES = 600 << 20
#: The read-ahead is 32 MiB by default; the rest is what S3's client and the allocator take.
MOST_GROWTH_BYTES = 150 << 20
_PIECE = bytes(range(256)) * (4 << 10)


@contextmanager
def http_store() -> Iterator[str]:
    """Run a store that is quicker with objects of this size than moto."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.sink", "--keep"],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'layers/core'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.kill()
            process.wait()


def put(endpoint: str, path: str) -> None:
    """Put a file of one large image."""
    elements = [
        (0x00080016, "UI", CTImageStorage),
        (0x00080018, "UI", KEY.sop_instance_uid),
        (0x0020000D, "UI", KEY.study_instance_uid),
        (0x0020000E, "UI", KEY.series_instance_uid),
    ]
    head = file_head(CTImageStorage, KEY.sop_instance_uid, ExplicitVRLittleEndian) + b"".join(
        encode_element(tag, vr, value.encode()) for tag, vr, value in elements
    )
    head += encode_header(0x7FE00010, "OW", PIXEL_BYTES)
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    connection.putrequest("PUT", path)
    connection.putheader("Content-Length", str(len(head) + PIXEL_BYTES))
    connection.endheaders()
    connection.send(head)
    for _ in range(PIXEL_BYTES // len(_PIECE)):
        connection.send(_PIECE)
    assert connection.getresponse().status == 200
    connection.close()


def test_an_instance_of_600_megabytes_is_sent_in_little_memory(tmp_path: Path) -> None:
    port = free_port()
    nodes = nodes_file(tmp_path, {"DEST": port})
    with offline_cloud() as cloud, http_store() as endpoint:
        stores = Stores.in_cloud(cloud)
        put(endpoint, f"/{stores.bucket}/{KEY}")
        make: Any = boto3.client
        s3 = make("s3", endpoint_url=endpoint, region_name="us-east-1",
                  aws_access_key_id="test", aws_secret_access_key="test")  # fmt: skip
        copy = read_copy(Archive(s3, stores.bucket), str(KEY))
        assert isinstance(copy, Copy)
        dynamodb: Any = cloud.clients.dynamodb
        Index(dynamodb, stores.table).record([copy])
        settings = {"AWS_ENDPOINT_URL_S3": endpoint, "LENTICULAR_NODES_FILE": str(nodes)}
        with (
            running_gateway(tmp_path / "gateway.log", stores, settings) as gateway,
            dcmtk.receiver(tmp_path / "received", "DEST", port, "--ignore"),
            requestor(gateway, seconds=300) as association,
        ):
            before = gateway.peak_bytes()
            *_, (final, failed) = responses(association, "DEST", STUDY)
            grown = gateway.peak_bytes() - before
    assert (final.Status, counts(final), failed) == (0x0000, (-1, 1, 0, 0), [])
    assert grown < MOST_GROWTH_BYTES
    print(f"\nresident memory grew by {grown >> 20} MiB")
