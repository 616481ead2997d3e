"""`lenticular import`: what a folder or another PACS has, into this node, by DICOM."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from lenticular.errors import OperatorError
from lenticular.identifiers import is_uid
from lenticular.sop_classes import STUDY_ROOT_FIND

from . import printing
from .find import identifier
from .moving import move_study
from .pace import Pace, progress_bar, rate_option
from .peers import Peer, own_ae_title, peer_named, this_node
from .send import Checks, Outcome, send_files
from .state import State, state_option
from .tls import TlsOptions, tls_options

_RETRIES: Final = click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="How often what failed is tried again.",
)


@click.group("import")
def import_() -> None:
    """Import a folder, or the studies of another PACS."""


@import_.command("folder")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@state_option
@_RETRIES
@rate_option
@click.option(
    "--unknown-classes", is_flag=True, help="Take storage classes that we do not know, too."
)
@tls_options
@printing.as_json
def import_folder(  # noqa: PLR0913 - options of a command
    paths: tuple[Path, ...],
    *,
    state_file: Path | None,
    retries: int,
    rate: float | None,
    unknown_classes: bool,
    tls: TlsOptions,
    as_json: bool,
) -> None:
    """Send every DICOM file of folders to this node.

    LENTICULAR_HOST says where its gateway is.
    """
    checks = Checks.wanted("none", unknown_classes=unknown_classes)
    send_files(this_node(tls), paths, checks, state_file, retries, rate).print(as_json=as_json)


@import_.command("node")
@click.argument("source", metavar="PEER")
@click.option(
    "--dates", metavar="FROM-TO", help="Study dates, as 20240101-20241231; asked for day by day."
)
@click.option(
    "-k", "--key", "keys", multiple=True, metavar="KEY=VALUE", help="Only what matches; repeatable."
)
@click.option("--study", "studies", multiple=True, help="Only this Study Instance UID; repeatable.")
@state_option
@_RETRIES
@rate_option
@tls_options
@printing.as_json
def import_node(  # noqa: PLR0913 - options of a command
    source: str,
    *,
    dates: str | None,
    keys: tuple[str, ...],
    studies: tuple[str, ...],
    state_file: Path | None,
    retries: int,
    rate: float | None,
    tls: TlsOptions,
    as_json: bool,
) -> None:
    """Have the PACS PEER send its studies to this node.

    PEER must know this node by its AE title. Which studies there are is asked by C-FIND, then each
    is moved by C-MOVE. Many PACS answer some hundred matches at most, so ask by --dates. A study of
    which less is sent than C-FIND says there is was not imported. Whether PEER sends with TLS is
    set there.
    """
    peer = peer_named(source, tls)
    destination = own_ae_title()
    outcome = Outcome()
    pace = Pace(rate)
    asked = {"import from": str(peer), "dates": dates, "keys": list(keys)}
    with State(state_file, asked) as state:
        for uid, instances in _studies(peer, dates, keys, studies):
            if uid in state.done:
                outcome.before += 1
                continue
            with progress_bar(instances, uid) as bar:
                problem = move_study(peer, destination, uid, retries, bar, expected=instances)
                moved = bar.pos
            if problem is None:
                state.note(uid, instances=moved)
                outcome.sent += 1
                pace.spend(moved)
            else:
                outcome.problems[uid] = problem
    outcome.print(as_json=as_json)


def _studies(
    peer: Peer, dates: str | None, keys: Sequence[str], studies: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """Yield UID and number of instances of each study at a peer, each once."""
    from .service_user import find

    wanted = ["StudyInstanceUID", "NumberOfStudyRelatedInstances"]
    queries = [[*keys, *wanted]]
    if studies:
        queries = [[*keys, f"StudyInstanceUID={uid}", wanted[1]] for uid in studies]
    elif dates:
        queries = [[*keys, *wanted, f"StudyDate={day:%Y%m%d}"] for day in days_of(dates)]
    seen: set[str] = set()
    for query in queries:
        for match in find(peer, STUDY_ROOT_FIND, identifier("STUDY", query)):
            uid = str(match.get("StudyInstanceUID", ""))
            if is_uid(uid) and uid not in seen:
                seen.add(uid)
                yield uid, _count(match.get("NumberOfStudyRelatedInstances"))


def _count(value: object) -> int:
    """Read how many instances a PACS says there are, 0 where it does not say."""
    text = str(value or "").strip()
    return int(text) if text.isdecimal() else 0


def days_of(dates: str) -> Iterator[date]:
    """Yield the days of YYYYMMDD-YYYYMMDD, or the one of YYYYMMDD; raises `OperatorError`."""
    first, _, last = dates.partition("-")
    try:
        day, end = _day(first), _day(last or first)
    except ValueError:
        raise OperatorError(f"{dates!r} is not YYYYMMDD-YYYYMMDD") from None
    if end < day:
        raise OperatorError(f"{dates!r} ends before it begins")
    while day <= end:
        yield day
        day += timedelta(days=1)


def _day(text: str) -> date:
    if len(text) != len("YYYYMMDD"):
        raise ValueError(text)
    return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date()
