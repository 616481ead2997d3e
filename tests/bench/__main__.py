"""Measure the gateway beside other servers: `python -m tests.bench --help`.

Figures depend on the machine and on what else it does; only what stands in one table was measured
together. Nothing here is a test: no figure makes it fail.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from tests.cloud.dynamodb_local import is_installed, running_dynamodb_local
from tests.cloud.standin import offline_cloud

from .association import PeerFailed
from .findable import findability
from .finding import growth, sample_finds
from .idle import idle
from .machine import machine, versions
from .processes import PYTHON_PATH, ROOT, ServerFailed
from .receivers import ARCHIVES, DISCARDER, OURS, OURS_OF_WORKERS, RECEIVERS, Receiver, Site
from .report import (
    findable_table,
    finding_table,
    growth_table,
    idle_table,
    retrieving_table,
    slow_puts_table,
    storing_table,
)
from .retrieving import sample_retrievals
from .slices import encoded_slice
from .slow_puts import sample_slow_puts
from .storing import Load, SendingFailed, sample

_FAILED: Final = 1
#: DynamoDB Local says where it is itself; no other service is asked.
_NO_CLOUD: Final[Mapping[str, str]] = {}
_SLOW_ASSOCIATIONS: Final = (1, 16)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a person asked for, and what it is measured with."""

    options: argparse.Namespace
    folder: Path
    data_set: Path

    @contextmanager
    def site(self) -> Iterator[Site]:
        """Run moto for the gateway's table; its S3 is the sink."""
        with offline_cloud() as cloud:
            table = str(cloud.stack(ROOT / "template.yaml").ref("Table"))
            yield Site(self.folder, cloud.environment, table)


def _there(receivers: Sequence[Receiver]) -> list[Receiver]:
    """Return the receivers that are installed, and say which are not."""
    for absence in filter(None, (receiver.absence for receiver in receivers)):
        print(absence)
    return [receiver for receiver in receivers if receiver.absence is None]


def _storing(bench: Bench) -> str:
    options = bench.options
    receivers = _there([each for each in RECEIVERS if each.name in options.receivers])
    if not receivers:
        return "C-STORE: there is no receiver to measure"
    loads = [Load(options.instances, associations) for associations in options.associations]
    with bench.site() as site:
        samples = list(sample(receivers, loads, options.rounds, site, bench.data_set))
    return (
        f"C-STORE: {options.instances} CT slices of {bench.data_set.stat().st_size / 1e3:.0f} KB "
        f"in PDUs of 128 KiB, medians of {options.rounds} interleaved rounds, ratios within a "
        "round\n\n"
        f"{_legend(receivers)}\n\n{storing_table(samples)}"
    )


def _legend(receivers: Sequence[Receiver]) -> str:
    width = max(len(receiver.name) for receiver in receivers)
    return "\n".join(f"  {receiver.name:<{width}}  {receiver.what}" for receiver in receivers)


def _slow_puts(bench: Bench) -> str:
    options = bench.options
    loads = [Load(options.instances, associations) for associations in _SLOW_ASSOCIATIONS]
    with bench.site() as site:
        samples = list(
            sample_slow_puts(
                loads, options.rounds, site, bench.data_set, options.put_milliseconds / 1000
            )
        )
    return (
        f"C-STORE with {options.put_milliseconds:g} ms before each PUT is answered; the bound is "
        "associations / (latency + time of an instance on one association without it). With a "
        "spool the disk has an instance before it is acknowledged, and S3 later\n\n"
        f"{slow_puts_table(samples)}"
    )


def _findable(bench: Bench) -> str:
    options = bench.options
    measured = findability(
        bench.data_set.read_bytes(), bench.folder, options.findable, options.pace
    )
    return (
        f"From C-STORE-RSP to findable: {options.findable} instances of one study stored one after "
        f"another at {options.pace:g}/s into the offline node (moto), while a second association "
        "asks ten times a second at IMAGE level for every series that misses one; times are too "
        "long by up to one such turn\n\n"
        f"{findable_table(measured)}"
    )


def _idle(bench: Bench) -> str:
    with bench.site() as site:
        measured = [
            idle(receiver, bench.options.idle, site) for receiver in (OURS, OURS_OF_WORKERS)
        ]
    return f"Associations that do nothing\n\n{idle_table(measured)}"


def _retrieving(bench: Bench) -> str:
    options = bench.options
    archives = _there(ARCHIVES)
    with bench.site() as site, _table_engine(site) as (own, engine):
        samples = list(
            sample_retrievals(
                archives,
                options.instances,
                options.rounds,
                own,
                bench.data_set,
                options.get_milliseconds / 1000,
            )
        )
    return (
        f"C-MOVE of a study of {options.instances} CT slices to {DISCARDER.name}, and C-GET by a "
        f"requestor that throws them away; medians of {options.rounds} interleaved rounds, ratios "
        f"within a round, a C-MOVE before them to warm up; lenticular's table is in {engine}, its "
        "objects in the sink\n\n"
        f"{retrieving_table(samples)}"
    )


@contextmanager
def _table_engine(site: Site) -> Iterator[tuple[Site, str]]:
    """Put the table into DynamoDB Local where that is installed, for moto is slow; name it."""
    if not is_installed():
        yield site, "moto"
        return
    with running_dynamodb_local() as engine:
        aws = {**site.aws, **engine.environment}
        yield replace(site, aws=aws, table=engine.table()), "DynamoDB Local"


def _finding(bench: Bench) -> str:
    options = bench.options
    folder = bench.folder / "finding"
    folder.mkdir()
    site = Site(folder, _NO_CLOUD, "")
    samples = list(sample_finds(site, options.studies, options.rounds))
    return (
        f"C-FIND at STUDY level among {options.studies} studies, medians of {options.rounds} "
        "interleaved rounds; the store is DynamoDB Local\n\n"
        f"{finding_table(samples)}"
    )


def _growing(bench: Bench) -> str:
    folder = bench.folder / "growing"
    folder.mkdir()
    measured = growth(Site(folder, _NO_CLOUD, ""), bench.options.matches)
    return (
        f"Memory of the gateway while it answers {bench.options.matches} matches\n\n"
        f"{growth_table(measured)}"
    )


def _committing(bench: Bench) -> str:
    references = map(str, bench.options.references)
    return _apart("committing", *references)


def _transcoding(bench: Bench) -> str:
    options = bench.options
    return _apart("transcoding", f"--images={options.images}", f"--rounds={options.rounds}")


def _verifying(bench: Bench) -> str:
    return _apart("verifying", f"--instances={bench.options.objects}")


def _apart(module: str, *arguments: str) -> str:
    """Measure in a process of its own, for its memory and its processor time are measured."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHON_PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(done.stderr)
    return done.stdout.rstrip()


#: What can be measured, in the order it is.
_SUBJECTS: Final[Mapping[str, Callable[[Bench], str]]] = {
    "storing": _storing,
    "slow-puts": _slow_puts,
    "idle": _idle,
    "retrieving": _retrieving,
    "findable": _findable,
    "finding": _finding,
    "growing": _growing,
    "committing": _committing,
    "transcoding": _transcoding,
    "verifying": _verifying,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure the gateway beside other DICOM servers on this machine. "
        "A server that is not installed is skipped. It takes some minutes.",
    )
    add = parser.add_argument
    names = [receiver.name for receiver in RECEIVERS]
    add("--only", nargs="+", choices=_SUBJECTS, default=list(_SUBJECTS), metavar="SUBJECT",
        help=f"what to measure, of: {', '.join(_SUBJECTS)} (default all)")  # fmt: skip
    add("--rounds", type=_count, default=3, metavar="N", help="interleaved rounds (default 3)")
    add("--instances", type=_count, default=500, metavar="N",
        help="instances sent to a receiver in a round (default 500)")  # fmt: skip
    add("--associations", type=_count, nargs="+", default=[1, 4], metavar="N",
        help="associations at a time (default 1 4)")  # fmt: skip
    add("--receivers", nargs="+", choices=names, default=names, metavar="NAME",
        help="receivers of `storing`, of: " + ", ".join(f'"{name}"' for name in names)
        + " (default all)")  # fmt: skip
    add("--put-milliseconds", type=float, default=30.0, metavar="MS",
        help="S3's latency in `slow-puts` (default 30)")  # fmt: skip
    add("--get-milliseconds", type=float, default=30.0, metavar="MS",
        help="S3's latency in the slow row of `retrieving` (default 30)")  # fmt: skip
    add("--idle", type=_count, default=100, metavar="N",
        help="associations of `idle`, at most 128 (default 100)")  # fmt: skip
    add("--findable", type=_count, default=1000, metavar="N",
        help="instances stored in `findable` (default 1000)")  # fmt: skip
    add("--pace", type=float, default=10.0, metavar="N",
        help="instances a second in `findable` (default 10)")  # fmt: skip
    add("--studies", type=_count, default=5000, metavar="N",
        help="studies of `finding` (default 5000)")  # fmt: skip
    add("--matches", type=_count, default=100_000, metavar="N",
        help="matches of `growing` (default 100000)")  # fmt: skip
    add("--references", type=_count, nargs="+", default=[1, 1000, 10_000], metavar="N",
        help="references of a request in `committing` (default 1 1000 10000)")  # fmt: skip
    add("--images", type=_count, default=4, metavar="N",
        help="images of 8 MB in `transcoding` (default 4)")  # fmt: skip
    add("--objects", type=_count, default=10_000, metavar="N",
        help="objects in `verifying` (default 10000)")  # fmt: skip
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return count


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Measure and print; return the exit status."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _stop)
    print(f"{machine()}\n{versions()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="lenticular-bench-") as folder:
        data_set = Path(folder) / "slice"
        data_set.write_bytes(encoded_slice())
        bench = Bench(options, Path(folder), data_set)
        try:
            for subject, measure in _SUBJECTS.items():
                if subject in options.only:
                    print(f"\n{measure(bench)}", flush=True)
        except (PeerFailed, SendingFailed, ServerFailed) as error:
            print(f"the benchmark cannot go on: {error}", file=sys.stderr)
            return _FAILED
        except KeyboardInterrupt:
            return _FAILED
    print(f"\nload at the end: {machine().partition('load ')[2].partition(',')[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
