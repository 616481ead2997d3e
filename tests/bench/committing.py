"""How long a storage commitment takes, and what it asks of AWS: `python -m tests.bench.committing`.

Series of small instances are put into moto's bucket and table as the gateway and the index function
put them there; then a requester asks for each, and is told, by what the commit function runs.
"""

import argparse
import resource
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from lenticular.archive import TransactionKey
from lenticular.commitment import Patience, Reference, Request
from lenticular.committing import Committing, Turn
from lenticular.event_report import Reporter
from lenticular.header import read_copy
from lenticular.index_items import Copy, instance_item, to_dynamodb
from lenticular.nodes import PERMISSIONS, Node
from lenticular.transactions import Transactions
from tests.cloud.standin import offline_cloud
from tests.cloud.stored_instances import CT, Store
from tests.peers.commitment_requester import requester

_PARALLEL: Final = 8
_ITEMS_A_WRITE: Final = 25
_AET: Final = "MODALITY"


def put_series(store: Store, series: int, instances: int) -> list[Reference]:
    """Store a series and index its instances; return references to them."""
    series_uid = f"1.2.{series}"

    def put(number: int) -> dict[str, Any]:
        key = store.put(
            SOPClassUID=CT,
            SOPInstanceUID=f"{series_uid}.{number}",
            StudyInstanceUID="1.2",
            SeriesInstanceUID=series_uid,
            InstanceNumber=str(number),
        )
        copy = read_copy(store.archive, key)
        assert isinstance(copy, Copy)
        return to_dynamodb(instance_item(copy))

    dynamodb: Any = store.cloud.clients.dynamodb
    with ThreadPoolExecutor(_PARALLEL) as pool:
        items = list(pool.map(put, range(instances)))
    for start in range(0, instances, _ITEMS_A_WRITE):
        some = [{"PutRequest": {"Item": item}} for item in items[start : start + _ITEMS_A_WRITE]]
        dynamodb.batch_write_item(RequestItems={store.table: some})
    return [Reference(CT, f"{series_uid}.{number}") for number in range(instances)]


@contextmanager
def counted(store: Store) -> Iterator[Counter[str]]:
    """Count the requests made of AWS in the block, by operation."""
    calls: Counter[str] = Counter()

    def count(model: Any, **_: object) -> None:
        calls[model.name] += 1

    clients: list[Any] = [store.cloud.clients.s3, store.cloud.clients.dynamodb]
    for client in clients:
        client.meta.events.register("before-call", count)
    try:
        yield calls
    finally:
        for client in clients:
            client.meta.events.unregister("before-call", count)


def committing(store: Store, port: int) -> Committing:
    """Put together what the commit function runs, for a requester at `port`."""
    dynamodb: Any = store.cloud.clients.dynamodb
    return Committing(
        archive=store.archive,
        index=store.index(),
        transactions=Transactions(store.archive, dynamodb, store.table),
        reporter=Reporter(answer_seconds=60, tls_with=lambda _: None),
        patience=Patience(
            grace=timedelta(minutes=10), report=timedelta(hours=72), first_pause_seconds=30
        ),
        find_node={_AET: Node(_AET, "127.0.0.1", port, frozenset(PERMISSIONS))}.get,
        send=lambda _body, _seconds: None,
        clock=lambda: datetime.now(UTC),
    )


def main() -> None:
    """Print one line for each number of references."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("references", type=int, nargs="*", default=[1, 1000, 10_000])
    wanted = parser.parse_args().references
    print("Storage commitment, moto in the place of AWS\n")
    print("references  check and report  of it the check  requests of AWS")
    with offline_cloud() as cloud:
        store = Store.in_cloud(cloud)
        for series, count in enumerate(wanted, 1):
            references = put_series(store, series, count)
            with requester(_AET) as modality:
                running = committing(store, modality.port)
                key = TransactionKey(_AET, f"1.2.{series}")
                request = Request(key, "LENTICULAR", datetime.now(UTC), tuple(references))
                running.transactions.ask(request)
                with counted(store) as calls:
                    began = time.monotonic()
                    running.take(Turn(key, 0, None), timedelta(minutes=3))
                    seconds = time.monotonic() - began
                [report] = modality.reports
                assert report.committed == frozenset(references)
            transaction = running.transactions.find(key)
            assert transaction is not None
            assert transaction.checked is not None
            assert transaction.ended is not None
            reporting = (transaction.ended - transaction.checked).total_seconds()
            described = ", ".join(f"{name} {times}" for name, times in sorted(calls.items()))
            print(f"{count:10}  {seconds:14.2f} s  {seconds - reporting:14.2f} s  {described}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"most memory of this process, requester included: {peak} MiB")


if __name__ == "__main__":
    main()
