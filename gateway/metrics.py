"""Metrics as CloudWatch reads them from logs: the embedded metric format, one JSON line on stdout.

One line at the end of each association, one for each kind of failure in it, one for each that is
rejected, one for each query, and one a minute and at the end for how many associations are open,
how much is in the spool, how long the certificate is still good and how many deletions broke off.
Numbers, statuses, the names of models, levels and plans, and our own AE title are all there is in
them: no patient data can get there, and no peer can make new metrics by giving itself new names.

The lines are written by a thread of their own. A stdout that nobody reads costs metrics, never an
association.
"""

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from .association import Ended
from .command_set import RESPONSE, CommandField
from .find import QueryEnded
from .negotiation import Rejected

_log: Final = logging.getLogger(__name__)

_STDOUT: Final = 1
_GAUGE_SECONDS: Final = 60.0
#: Lines that wait for a slow stdout; what comes when it is full is lost.
_MAX_WAITING: Final = 1000
#: What is left at the end gets this long to be written.
_FLUSH_SECONDS: Final = 2.0

#: Statuses that are no failure, PS3.7 C: success, warnings, cancel, pending. Warnings are 0001,
#: 0107, 0116 and Bxxx.
_NO_FAILURE: Final = frozenset({0x0000, 0x0001, 0x0107, 0x0116, 0xFE00, 0xFF00, 0xFF01})
_WARNING_CLASS: Final = 0xB

#: Each is paid for by the month. What no alarm and no dashboard shows is a field of the line alone,
#: where it can be searched for; what a query read is what a query costs.
_UNITS: Final[Mapping[str, str]] = {
    "Associations": "Count",
    "AssociationsOpen": "Count",
    "AssociationsRejected": "Count",
    "BytesReceived": "Bytes",
    "BytesSent": "Bytes",
    "CertificateDaysLeft": "Count",
    "DeletionsBrokenOff": "Count",
    "Failures": "Count",
    "InstancesStored": "Count",
    "MetricLinesLost": "Count",
    "ObjectsMissing": "Count",
    "Queries": "Count",
    "QueryCapacityUnits": "Count",
    "QueryItemsRead": "Count",
    "QuerySeconds": "Seconds",
    "SpoolBytes": "Bytes",
    "SpoolDepth": "Count",
    "SpoolOldestAge": "Seconds",
}


class Metrics:
    """Writes metric lines of one node from `start` to `close`."""

    def __init__(
        self,
        ae_title: str,
        namespace: str,
        *,
        descriptor: int = _STDOUT,
        clock: Callable[[], float] = time.time,
        gauge_seconds: float = _GAUGE_SECONDS,
    ) -> None:
        """Write to a file descriptor."""
        self._ae_title = ae_title
        self._namespace = namespace
        self._descriptor = descriptor
        self._clock = clock
        self._gauge_seconds = gauge_seconds
        self._waiting: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._lost = 0
        self._thread: threading.Thread | None = None

    def start(
        self,
        open_associations: Callable[[], int] | None,
        more_gauges: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """Write from now on; gauges are asked for once a minute, and by `close`.

        `open_associations` is `None` where another process knows how many are open.
        """

        def gauges() -> dict[str, float]:
            known = {} if open_associations is None else {"AssociationsOpen": open_associations()}
            return {**known, **more_gauges()}

        # What a process without associations of its own has to tell need not be told at once.
        first_seconds = self._gauge_seconds if open_associations is None else 0.0
        self._thread = threading.Thread(
            target=self._write, args=(gauges, first_seconds), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Write what is left, if anybody reads it, and stop."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread is not None:
            self._thread.join(_FLUSH_SECONDS)

    def association_ended(self, ended: Ended) -> None:
        """Note what an association did; any thread may call it, and none waits here."""
        self._note(self._lines(ended))

    def association_rejected(self, rejected: Rejected) -> None:
        """Note that a peer was turned away and why; any thread may call it, and none waits here."""
        self._note([self._line({"AssociationsRejected": 1}, dimensions={"Reason": rejected.why})])

    def query_ended(self, ended: QueryEnded) -> None:
        """Note what a query cost; any thread may call it, and none waits here."""
        line = self._line(
            {
                "Queries": 1,
                "QueryItemsRead": ended.reading.items,
                "QueryCapacityUnits": ended.reading.capacity_units,
                "QuerySeconds": round(ended.seconds, 4),
            },
            facts={
                "Plan": ended.plan,
                "Level": ended.level,
                "Model": ended.model,
                "QueryMatches": ended.matches,
                "QueryPages": ended.reading.pages,
                "QueryStoreSeconds": round(ended.reading.seconds, 4),
            },
        )
        self._note([line])

    def _note(self, lines: Iterable[str]) -> None:
        for line in lines:
            try:
                self._waiting.put_nowait(line)
            except queue.Full:
                self._lost += 1

    def _lines(self, ended: Ended) -> Iterator[str]:
        yield self._line(
            {
                "Associations": 1,
                "BytesReceived": ended.bytes_received,
                "BytesSent": ended.bytes_sent,
                "ObjectsMissing": ended.objects_missing,
                "InstancesStored": sum(
                    count
                    for (field, status), count in ended.responses.items()
                    if field == CommandField.C_STORE_RSP and not is_failure(status)
                ),
            },
            facts={"Outcome": ended.outcome.value, "AssociationSeconds": ended.seconds},
        )
        for (field, status), count in ended.responses.items():
            if is_failure(status):
                yield self._line(
                    {"Failures": count},
                    dimensions={"Operation": _operation(field), "Status": f"{status:04X}"},
                )

    def _line(
        self,
        values: Mapping[str, float],
        *,
        dimensions: Mapping[str, str] | None = None,
        facts: Mapping[str, str | float] | None = None,
    ) -> str:
        named = {"AETitle": self._ae_title, **(dimensions or {})}
        directive = {
            "Namespace": self._namespace,
            "Dimensions": [list(named)],
            "Metrics": [{"Name": name, "Unit": _UNITS[name]} for name in values],
        }
        timestamp = int(self._clock() * 1000)
        return json.dumps(
            {
                "_aws": {"Timestamp": timestamp, "CloudWatchMetrics": [directive]},
                **named,
                **(facts or {}),
                **values,
            }
        )

    # In the thread that writes

    def _write(self, gauges: Callable[[], Mapping[str, float]], first_seconds: float) -> None:
        gauge_due = time.monotonic() + first_seconds
        try:
            while True:
                wait = gauge_due - time.monotonic()
                if wait <= 0:
                    gauge_due += self._gauge_seconds
                    self._put(self._gauges(gauges()))
                    continue
                with contextlib.suppress(queue.Empty):
                    line = self._waiting.get(timeout=wait)
                    if line is None:
                        # What a process leaves behind, and what it has lost since the last minute.
                        self._put(self._gauges(gauges()))
                        return
                    self._put(line)
        except OSError as error:
            _log.warning("metrics cannot be written any more", extra={"reason": error.strerror})

    def _gauges(self, values: Mapping[str, float]) -> str:
        lost, self._lost = self._lost, 0
        return self._line({**values, "MetricLinesLost": lost})

    def _put(self, line: str) -> None:
        # Past Python's buffer, whose lock a write that hangs would hold when the process ends.
        rest = f"{line}\n".encode()
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def is_failure(status: int) -> bool:
    """Tell whether a status is of the failure class."""
    return status not in _NO_FAILURE and status >> 12 != _WARNING_CLASS


def _operation(field: int) -> str:
    """Name an operation as the standard does, by the command field of its response."""
    try:
        return CommandField(field & ~RESPONSE).name.removesuffix("_RQ").replace("_", "-")
    except ValueError:
        # A peer may ask for what does not exist; that is one metric, not 65,000.
        return "unknown"
