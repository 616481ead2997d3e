"""What each Lambda function takes: `python -m tests.bench.functions [--build DIRECTORY]`.

Every figure is of a fresh process that loads the handler as Lambda does, and calls it with one
batch that waits in moto's stack: CPU seconds of the process, which no other load changes much, and
its peak resident memory. With a build (of `make build`), what there is to unpack too.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Final

from lenticular.archive import ProcedureKey, TransactionKey
from lenticular.commitment import Request
from lenticular.indexing import index_objects
from lenticular.moments import moment
from lenticular.nodes import PERMISSIONS, Node, NodeTable
from lenticular.procedure_step import Cause, created
from lenticular.transactions import Transactions
from tests import images
from tests.cloud.standin import offline_cloud
from tests.cloud.stored_instances import ROOT, Store, study
from tests.peers.commitment_requester import requester

from .committing import put_series
from .report import table

FUNCTIONS: Final = ("index", "transcode", "commit", "mpps")
_STARTS: Final = 7
_MB: Final = 1e6
#: What of a build each function has; SAM calls its folder and layers so.
_LAYERS: Final = dict.fromkeys(FUNCTIONS, ("CoreLayer", "DepsLayer")) | {
    "transcode": ("CoreLayer", "DepsLayer", "CodecsLayer")
}
_AET: Final = "MODALITY"
#: As on Lambda, where every call of AWS is traced. Nobody listens to what it sends.
_ON_LAMBDA: Final = {
    "LAMBDA_TASK_ROOT": "/var/task",
    "_X_AMZN_TRACE_ID": "Root=1-5759e988-bd862e3fe1be46a994272793;"
    "Parent=53995c3f42cd8ad8;Sampled=0",
}
_CHILD: Final = """
import json, re, sys, time
from pathlib import Path
wall, cpu = time.perf_counter(), time.process_time()
import app
loaded = [time.perf_counter() - wall, time.process_time() - cpu]
class Context:
    function_name = "function"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn"
    aws_request_id = "request"
    get_remaining_time_in_millis = lambda self: 180_000
for line in sys.stdin:
    event = json.loads(line)
    cpu = time.process_time()
    answer = app.handler(event, Context())
    loaded.append(time.process_time() - cpu)
    assert answer == {"batchItemFailures": []}, answer
# Of getrusage, exec keeps what the process was before it.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([*loaded, int(peak[1]) / 1024]), file=sys.stderr)
"""


@dataclass(frozen=True, slots=True)
class Work:
    """A batch for a function, by the bodies of its messages."""

    function: str
    what: str
    bodies: Sequence[str]


def run(function: str, environment: Mapping[str, str], bodies: Sequence[str] = ()) -> list[float]:
    """Return seconds and CPU seconds of loading, CPU seconds of the call, if any, and peak MiB."""
    path = (str(ROOT / "functions" / function), str(ROOT / "layers/core"))
    records = [
        {"messageId": f"m{number}", "body": body, "eventSource": "aws:sqs"}
        for number, body in enumerate(bodies)
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CHILD],
        env={"PYTHONPATH": os.pathsep.join(path), **_ON_LAMBDA, **environment},
        input=f"{json.dumps({'Records': records})}\n" if records else "",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: list[float] = json.loads(done.stderr.splitlines()[-1])
    return figures


def settings(store: Store, queue: str) -> dict[str, str]:
    """Return the environment of every function, as the template gives it."""
    return {
        **store.cloud.environment,
        "LENTICULAR_BUCKET": store.bucket,
        "LENTICULAR_TABLE": store.table,
        "LENTICULAR_COMMIT_QUEUE": queue,
        "LENTICULAR_PROCEDURES_QUEUE": queue,
        "LENTICULAR_TRANSCODE_QUEUE": queue,
        "POWERTOOLS_SERVICE_NAME": "lenticular",
        "POWERTOOLS_METRICS_NAMESPACE": "Lenticular",
    }


def _stored(*keys: str) -> str:
    records = [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key}}} for key in keys]
    return json.dumps({"Records": records})


def index_work(store: Store) -> Iterator[Work]:
    """Instances of a study: what is read of each is its header, whatever its size."""
    for count in (1, 10, 100):
        keys = [store.put(**each) for each in study(count, series=1, instances=count)]
        yield Work("index", f"{count} instances", [_stored(key) for key in keys])
    for megabytes in (8, 128):
        large = images.Image("large", 8, 8, bytes(megabytes << 20), rows=1 << 10, columns=1 << 10,
                             frames=megabytes, uid=f"1.2.{megabytes}")  # fmt: skip
        store.put_bytes(large.key(), large.file())
        yield Work("index", f"1 instance of {megabytes} MB", [_stored(large.key())])


def transcode_work(store: Store) -> Iterator[Work]:
    """Images as compressible as a CT: a slice, a batch of slices, an X-ray, multi-frames."""
    sizes = (
        ("1 slice of 0.5 MB", 1, (512, 512, 1)),
        ("10 slices of 0.5 MB", 10, (512, 512, 1)),
        ("1 image of 8 MB", 1, (2000, 2048, 1)),
        ("1 image of 32 MB", 1, (4000, 4096, 1)),
        ("64 frames, 32 MB", 1, (512, 512, 64)),
        ("256 frames, 134 MB", 1, (512, 512, 256)),
    )
    for number, (what, count, (rows, columns, frames)) in enumerate(sizes):
        image = images.smooth("made", rows, columns, min(frames, 4))
        image = replace(image, pixels=image.pixels * max(1, frames // 4), frames=frames)
        bodies = []
        for each in range(count):
            instance = replace(image, uid=f"1.3.{number}.{each}")
            store.put_bytes(instance.key(), instance.file())
            index_objects(store.archive, store.index(), [instance.key()])
            bodies.append(json.dumps({"object_key": instance.key()}))
        yield Work("transcode", what, bodies)


def commit_work(store: Store, references: Sequence[int], port: int) -> Iterator[Work]:
    """Keep requests of a node that listens at `port`."""
    dynamodb: Any = store.cloud.clients.dynamodb
    NodeTable(dynamodb, store.table).put(Node(_AET, "127.0.0.1", port, frozenset(PERMISSIONS)))
    for number, count in enumerate(references, 1):
        found = put_series(store, number, count)
        key = TransactionKey(_AET, f"1.4.{number}")
        request = Request(key, "LENTICULAR", datetime.now(UTC), tuple(found))
        Transactions(store.archive, dynamodb, store.table).ask(request)
        yield Work("commit", f"{count} references", [_stored(key.requested)])


def mpps_work(store: Store) -> Iterator[Work]:
    """Keep steps that are over and announced so many instances, of which none has come."""
    for number, count in enumerate((1, 1000, 10_000), 1):
        uid, received = f"1.5.{number}", moment(datetime.now(UTC))
        texts = {0x00400253: "S1", 0x00400241: _AET, 0x00400244: "20260105",
                 0x00400245: "081500", 0x00400252: "IN PROGRESS", 0x00080060: "CT"}  # fmt: skip
        attributes: dict[int, Any] = {tag: {"vr": "LO", "Value": [text]} for tag, text in
                                      texts.items()}  # fmt: skip
        attributes[0x00400270] = {
            "vr": "SQ", "Value": [{"0020000D": {"vr": "UI", "Value": [f"1.6.{number}"]}}]
        }  # fmt: skip
        begun = created(uid, attributes, Cause(received, _AET, "0" * 64))
        references = [
            {"00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
             "00081155": {"vr": "UI", "Value": [f"1.6.{number}.1.{each}"]}}
            for each in range(count)
        ]  # fmt: skip
        series = {"0020000E": {"vr": "UI", "Value": [f"1.6.{number}.1"]},
                  "00181030": {"vr": "LO", "Value": ["Thorax"]},
                  "00081140": {"vr": "SQ", "Value": references}}  # fmt: skip
        over = begun.modified(
            {0x00400252: {"vr": "CS", "Value": ["COMPLETED"]},
             0x00400250: {"vr": "DA", "Value": ["20260105"]},
             0x00400251: {"vr": "TM", "Value": ["083000"]},
             0x00400340: {"vr": "SQ", "Value": [series]}},
            Cause(received, _AET, "1" * 64),
        )  # fmt: skip
        s3: Any = store.cloud.clients.s3
        for step in (begun, over):
            key = str(ProcedureKey(uid, step.number))
            s3.put_object(Bucket=store.bucket, Key=key, Body=step.to_json())
        yield Work("mpps", f"{count} announced", [_stored(str(ProcedureKey(uid, over.number)))])


def sizes_of(folder: Path) -> tuple[float, float]:
    """Return the MB of a folder, unzipped and zipped as SAM does."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    return sum(path.stat().st_size for path in files) / _MB, zipped.tell() / _MB


def packages(build: Path) -> str:
    """Lay out what each function and layer of a build weighs."""
    parts = {each for layers in _LAYERS.values() for each in layers}
    rows: list[tuple[str, ...]] = [("part", "unzipped MB", "zipped MB")]
    rows += [
        (part, *(f"{each:.3f}" for each in sizes_of(build / part)))
        for part in (*(f"{name.capitalize()}Function" for name in FUNCTIONS), *sorted(parts))
    ]
    return table(rows)


def starts(environment: Mapping[str, str]) -> str:
    """Lay out what loading each handler takes."""
    rows = [("function", "load CPU s", "load s", "peak MiB")]
    for name in FUNCTIONS:
        samples = [run(name, environment) for _ in range(_STARTS)]
        wall, cpu, peak = (median(column) for column in zip(*samples, strict=True))
        rows.append((name, f"{cpu:.2f}", f"{wall:.2f}", f"{peak:.0f}"))
    return table(rows)


def main() -> None:
    """Print a table of packages, one of starts and one of work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, action="append", default=[])
    parser.add_argument("--references", type=int, nargs="*", default=[1, 1000])
    options = parser.parse_args()
    for build in options.build:
        print(f"{build.name}\n{packages(build)}\n")
    with offline_cloud() as cloud, requester(_AET) as modality:
        store = Store.in_cloud(cloud)
        queue = cloud.clients.sqs.create_queue(QueueName="asked")["QueueUrl"]
        environment = settings(store, queue)
        print(f"{starts(environment)}\n")
        rows = [("function", "batch", "CPU s", "peak MiB")]
        for work in chain(
            index_work(store),
            transcode_work(store),
            commit_work(store, options.references, modality.port),
            mpps_work(store),
        ):
            _, _, cpu, peak = run(work.function, environment, work.bodies)
            rows.append((work.function, work.what, f"{cpu:.2f}", f"{peak:.0f}"))
        print(table(rows))


if __name__ == "__main__":
    main()
