"""Medians, ratios, and the table they stand in."""

from collections.abc import Iterable, Sequence
from math import nan
from statistics import mean, median
from typing import Final

from .findable import Findability
from .finding import FindSample, Growth
from .idle import Idle
from .receivers import ORTHANC, OURS, RECEIVERS, STORESCP
from .retrieving import RetrieveSample
from .slow_puts import SlowSample
from .storing import Sample

_BASELINES: Final = (STORESCP, ORTHANC)
_NOTHING: Final = "-"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows, the first of them headings, in columns; all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def storing_table(samples: Iterable[Sample]) -> str:
    """Make the table of C-STORE: a row for each number of associations and receiver."""
    grouped: dict[tuple[int, str], list[Sample]] = {}
    for sample in samples:
        grouped.setdefault((sample.associations, sample.receiver), []).append(sample)
    names = [receiver.name for receiver in RECEIVERS]
    rows = [
        (
            "receiver",
            "associations",
            "instances/s",
            "(least-most)",
            *(f"x {baseline.name}" for baseline in _BASELINES),
            "CPU ms/instance",
        )
    ]
    for associations, name in sorted(grouped, key=lambda key: (key[0], names.index(key[1]))):
        of_row = grouped[associations, name]
        rates = [sample.instances_per_second for sample in of_row]
        rows.append(
            (
                name,
                str(associations),
                f"{median(rates):.0f}",
                f"({min(rates):.0f}-{max(rates):.0f})",
                *(
                    _ratio(of_row, grouped.get((associations, baseline.name), ()))
                    for baseline in _BASELINES
                ),
                f"{median(sample.cpu_milliseconds for sample in of_row):.2f}",
            )
        )
    return table(rows)


def _ratio(samples: Sequence[Sample], baseline: Sequence[Sample]) -> str:
    """Return the median of the rounds' ratios."""
    rates = {sample.turn: sample.instances_per_second for sample in baseline}
    ratios = [
        sample.instances_per_second / rates[sample.turn]
        for sample in samples
        if sample.turn in rates
    ]
    return f"{median(ratios):.2f}" if ratios else _NOTHING


def slow_puts_table(samples: Iterable[SlowSample]) -> str:
    """Make the table of C-STORE with latency: a row for each receiver and its associations."""
    grouped: dict[tuple[str, int], list[SlowSample]] = {}
    for sample in samples:
        key = (sample.sample.receiver, sample.sample.associations)
        grouped.setdefault(key, []).append(sample)
    rows = [
        (
            "receiver",
            "associations",
            "instances/s",
            f"x {OURS.name}",
            "bound",
            "of the bound",
            "in S3/s",
            "CPU ms/instance",
        )
    ]
    for (name, associations), of_row in sorted(grouped.items()):
        own = [each.sample for each in of_row]
        baseline = [each.sample for each in grouped.get((OURS.name, associations), ())]
        bounds = [each.bound for each in of_row if each.bound is not None]
        shares = [
            each.sample.instances_per_second / each.bound
            for each in of_row
            if each.bound is not None
        ]
        rows.append(
            (
                name,
                str(associations),
                f"{median(sample.instances_per_second for sample in own):.0f}",
                _ratio(own, baseline),
                f"{median(bounds):.0f}" if bounds else _NOTHING,
                f"{median(shares):.0%}" if shares else _NOTHING,
                f"{median(sample.kept_per_second for sample in own):.0f}",
                f"{median(sample.cpu_milliseconds for sample in own):.2f}",
            )
        )
    return table(rows)


def idle_table(measured: Iterable[Idle]) -> str:
    """Make the table of idle associations: a row for each gateway."""
    return table(
        [
            ("gateway", "associations", "of one core", "KB each", "MB without any"),
            *(
                (
                    each.receiver,
                    str(each.associations),
                    f"{each.core_share:.1%}",
                    f"{each.bytes_each / 1e3:.0f}",
                    f"{each.bytes_without / 1e6:.0f}",
                )
                for each in measured
            ),
        ]
    )


def retrieving_table(samples: Iterable[RetrieveSample]) -> str:
    """Make the table of C-MOVE and C-GET: a row for each operation and archive."""
    grouped: dict[tuple[str, str], list[RetrieveSample]] = {}
    for sample in samples:
        grouped.setdefault((sample.operation, sample.archive), []).append(sample)
    rows = [
        (
            "operation",
            "archive",
            "instances/s",
            "(least-most)",
            f"x {ORTHANC.name}",
            "first response s",
            "instances/s after it",
            "CPU ms/instance",
        )
    ]
    for operation, archive in sorted(grouped, reverse=True):
        of_row = grouped[operation, archive]
        beside = grouped.get((operation, ORTHANC.name), ())
        rates = [each.instances_per_second for each in of_row]
        ratios = [
            rate / other.instances_per_second for rate, other in zip(rates, beside, strict=False)
        ]
        rows.append(
            (
                operation,
                archive,
                f"{median(rates):.0f}",
                f"({min(rates):.0f}-{max(rates):.0f})",
                f"{median(ratios):.2f}" if ratios else _NOTHING,
                f"{median(each.first_seconds for each in of_row):.3f}",
                f"{median(each.sent_per_second for each in of_row):.0f}",
                f"{median(each.cpu_milliseconds for each in of_row):.2f}",
            )
        )
    return table(rows)


def finding_table(samples: Iterable[FindSample]) -> str:
    """Make the table of C-FIND: a row for each query and archive."""
    grouped: dict[tuple[str, str], list[FindSample]] = {}
    for sample in samples:
        grouped.setdefault((sample.query, sample.archive), []).append(sample)
    rows = [("query", "archive", "answers", "first ms", "all ms", "store ms", "CPU ms")]
    for (query, archive), of_row in grouped.items():
        stores = [each.store_milliseconds for each in of_row if each.store_milliseconds is not None]
        rows.append(
            (
                query,
                archive,
                str(of_row[0].matches),
                f"{median(each.first_milliseconds for each in of_row):.1f}",
                f"{median(each.total_milliseconds for each in of_row):.1f}",
                f"{median(stores):.1f}" if stores else _NOTHING,
                f"{mean(each.cpu_milliseconds for each in of_row):.1f}",
            )
        )
    return table(rows)


def growth_table(measured: Growth) -> str:
    """Make the table of memory: one row."""
    grown = measured.most_bytes - measured.before_bytes
    return table(
        [
            ("answers", "seconds", "before MB", "most MB", "growth MB"),
            (
                str(measured.matches),
                f"{measured.seconds:.1f}",
                f"{measured.before_bytes / 1e6:.0f}",
                f"{measured.most_bytes / 1e6:.0f}",
                f"{grown / 1e6:.0f}",
            ),
        ]
    )


def findable_table(measured: Findability) -> str:
    """Make the table of findability: one row."""
    seconds = sorted(measured.seconds)
    return table(
        [
            (
                "found",
                "lost",
                "median s",
                "95 % s",
                "worst s",
                "stored/s",
                "turn of asking s (worst)",
            ),
            (
                str(len(seconds)),
                str(measured.lost),
                *(f"{value:.2f}" for value in _quantiles(seconds)),
                f"{measured.stored_per_second:.1f}",
                f"{median(measured.turns):.2f} ({max(measured.turns):.2f})"
                if measured.turns
                else _NOTHING,
            ),
        ]
    )


def _quantiles(ordered: Sequence[float]) -> tuple[float, float, float]:
    """Return median, 95th percentile and maximum; not-a-number where there is nothing."""
    if not ordered:
        return (nan, nan, nan)
    return median(ordered), ordered[(len(ordered) * 95 - 1) // 100], ordered[-1]
