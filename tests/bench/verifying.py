"""What rebuild-index and verify take, and ask of AWS: `python -m tests.bench.verifying`.

Studies of small objects are put into the sink that stands for S3; the table is in DynamoDB Local.
The index is rebuilt from nothing, rebuilt once more when there is nothing to write, and then held
against the bucket, without and with reading. CPU is ours, and requests what AWS would get.
"""

import argparse
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from infra.local.cloud import clients
from lenticular.indexing import rebuild
from lenticular.verifying import Verifier
from tests.bench.committing import counted
from tests.bench.receivers import Site, sink
from tests.cloud.dynamodb_local import running_dynamodb_local
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import Store, study

_PARALLEL: Final = 8
_INSTANCES: Final = 500
#: What AWS charges for listing is a request a thousand objects, so here too.
_MOST_SHOWN: Final = 8


@contextmanager
def stores() -> Iterator[Store]:
    """Run the stores, empty."""
    with (
        TemporaryDirectory() as folder,
        running_dynamodb_local() as engine,
        sink(Site(Path(folder), engine.environment, "", keep=True)) as aws,
    ):
        cloud = OfflineCloud(
            engine.endpoint, aws, clients({"AWS_ENDPOINT_URL": engine.endpoint, **aws})
        )
        yield Store(cloud, "bench", engine.table())


def put(store: Store, instances: int) -> None:
    """Store so many instances, in studies of 500."""
    studies = -(-instances // _INSTANCES)

    def one(number: int) -> None:
        count = min(_INSTANCES, instances - number * _INSTANCES)
        for attributes in study(number, series=1, instances=count):
            store.put(**attributes)

    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(one, range(studies)))


def measure(store: Store, name: str, run: Callable[[], str]) -> None:
    """Run a step; print its time, what it asked for, and what it says."""
    with counted(store) as requests:
        began, cpu_began = time.perf_counter(), time.process_time()
        said = run()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    shown = ", ".join(f"{each} {count}" for each, count in requests.most_common(_MOST_SHOWN))
    total = sum(requests.values())
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<28} {seconds:>8.1f} s  {cpu:>8.1f} s CPU  {megabytes:>6.0f} MB  {said}")
    print(f"{'':<28} {total} requests: {shown}")


def verified(store: Store, *, reads: bool) -> str:
    """Verify everything and say what was looked at."""
    counts: Counter[str] = Counter()
    for report in Verifier(store.archive, store.index(), reads=reads).run():
        counts["objects"] += report.objects
        counts["bytes"] += report.bytes_read
        counts["findings"] += len(report.findings)
    return f"{counts['objects']} objects, {counts['bytes']} bytes, {counts['findings']} findings"


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=10_000)
    instances: int = parser.parse_args().instances
    print("The index rebuilt and held against the bucket; the table is in DynamoDB Local\n")
    with stores() as store:
        began = time.perf_counter()
        put(store, instances)
        print(f"{instances} objects put in {time.perf_counter() - began:.1f} s")
        index = store.index()
        for name in ("rebuild-index, empty table", "rebuild-index, nothing to do"):
            measure(store, name, lambda: f"{rebuild(store.archive, index)} objects")
        measure(store, "verify --quick", lambda: verified(store, reads=False))
        measure(store, "verify", lambda: verified(store, reads=True))


if __name__ == "__main__":
    main()
