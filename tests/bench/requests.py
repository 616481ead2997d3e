"""What an instance asks of AWS on its way in and out: `python -m tests.bench.requests`.

Instances of one series are sent to a gateway, indexed in batches as the index function gets them
from a modality, transcoded, and got back, against moto and DynamoDB Local with a way to them that
counts. What is printed is what `lenticular cost` reckons with (measured.toml), and a test holds the
two against each other.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config

from lenticular.archive import Archive
from lenticular.forms import FormStore
from lenticular.index import Index
from lenticular.indexing import index_objects
from lenticular.transcoding import Transcoder
from lenticular.transcoding_policy import TranscodingPolicy
from lenticular.transcoding_queue import ask_for_transcoding
from tests.cloud.counting_aws import CountingAws, counting_aws
from tests.cloud.dynamodb_local import running_dynamodb_local
from tests.cloud.standin import offline_cloud
from tests.peers import dcmtk
from tests.peers.ct_files import ct_file
from tests.peers.gateway_process import Stores, running_gateway

#: One series. What a study costs once, its instances share.
INSTANCES: Final = 100
#: What the index function gets at a time of a modality that sends ten instances a second.
BATCH: Final = 10
_STUDY: Final = "1.2.826.0.1.3680043.8.498.45787841905191949"


@dataclass(frozen=True)
class _Way:
    """The stores of one run, and the two ways to them that count."""

    aws: CountingAws
    dynamodb: CountingAws
    bucket: str
    table: str
    queue: str

    def taken(self) -> dict[str, float]:
        return self.aws.taken() | self.dynamodb.taken()

    def client(self, service: str) -> Any:
        make: Any = boto3.client
        return make(
            service,
            endpoint_url=(self.dynamodb if service == "dynamodb" else self.aws).endpoint,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(proxies={}, retries={"total_max_attempts": 1}),
        )


def measured(instances: int = INSTANCES) -> dict[str, dict[str, float]]:
    """Return what an instance asks for in each step, by service and operation.

    Steps: `stored`, `indexed`, `transcoded` with its original kept, `retired` with that gone, and
    `retrieved`.
    """
    steps: dict[str, dict[str, float]] = {}
    with _ways() as (way, stores), tempfile.TemporaryDirectory() as folder:
        files = [
            ct_file(
                Path(folder), _STUDY, f"{_STUDY}.1", f"{_STUDY}.1.{number}", rows=128,
                PatientID="4711", PatientName="Doe^Jane", StudyDate="20260105",
                StudyTime="120000", AccessionNumber="A1", StudyDescription="Thorax",
                InstanceNumber=str(number), Manufacturer="Nobody", StudyID="1",
            )
            for number in range(1, instances + 1)
        ]  # fmt: skip
        settings = {
            "AWS_ENDPOINT_URL": way.aws.endpoint,
            "AWS_ENDPOINT_URL_DYNAMODB": way.dynamodb.endpoint,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
        }
        with running_gateway(Path(folder) / "gateway.log", stores, settings) as gateway:
            way.taken()
            assert dcmtk.store(gateway, *files) == [0] * instances
            steps["stored"] = way.taken()
            archive = Archive(way.client("s3"), way.bucket)
            index = Index(way.client("dynamodb"), way.table)
            keys = list(archive.keys("instances/"))
            way.taken()
            sqs = way.client("sqs")
            for start in range(0, instances, BATCH):
                batch = keys[start : start + BATCH]
                assert index_objects(archive, index, batch) == []
                assert ask_for_transcoding(sqs, way.queue, batch) == []
            steps["indexed"] = way.taken()
            got = dcmtk.get(gateway, Path(folder) / "got", "STUDY", f"StudyInstanceUID={_STUDY}")
            assert len(list((Path(folder) / "got").iterdir())) == instances, got[-1000:]
            steps["retrieved"] = way.taken()
        for step, retires in (("transcoded", False), ("retired", True)):
            transcoder = Transcoder(
                archive,
                FormStore(way.client("s3"), way.bucket),
                index,
                TranscodingPolicy.parse("jpeg-lossless"),
                retire_originals=retires,
            )
            half = keys[: instances // 2] if retires else keys[instances // 2 :]
            for key in half:
                outcome = transcoder.transcode(key)
                assert outcome is not None
                assert (outcome.form_bytes > 0, outcome.retired) == (True, retires)
            # Each half is as if all were: per instance, nothing is shared here.
            steps[step] = {name: 2 * count for name, count in way.taken().items()}
    return {
        step: {name: round(count / instances, 2) for name, count in sorted(counts.items())}
        for step, counts in steps.items()
    }


@contextmanager
def _ways() -> Iterator[tuple[_Way, Stores]]:
    with offline_cloud() as cloud, running_dynamodb_local() as local:
        stores = Stores.in_cloud(cloud)
        table = local.table()
        sqs: Any = cloud.clients.sqs
        queue = sqs.create_queue(QueueName="of-the-bench")["QueueUrl"]
        with (
            counting_aws(cloud.endpoint) as aws,
            # The gateway reads its nodes every few seconds, whatever is stored.
            counting_aws(local.endpoint, but=b'"NODE"') as dynamodb,
        ):
            queue = queue.replace(cloud.endpoint, aws.endpoint)
            yield (
                _Way(aws, dynamodb, stores.bucket, table, queue),
                Stores(cloud, stores.bucket, table),
            )


def to_toml(steps: Mapping[str, Mapping[str, float]]) -> str:
    """Write what was measured as it stands in measured.toml."""
    lines = []
    for step, counts in steps.items():
        lines += [f"[{step}]", *(f'"{name}" = {count}' for name, count in counts.items()), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    print(to_toml(measured()))
