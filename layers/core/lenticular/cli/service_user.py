"""The services a command uses of a DICOM peer (SCU): C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE.

Every failure is `PeerFailed`, a sentence that names the peer; a status is returned as it is.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset

from lenticular import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from lenticular.requesting import NotEstablished, Unanswered, establish
from lenticular.sop_classes import STUDY_ROOT_GET, STUDY_ROOT_MOVE, VERIFICATION
from lenticular.status import MoveStatus, Status
from lenticular.tls_connection import TlsAE, tls_version

from .association_requests import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    MAX_PDU_BYTES,
    SUB_OPERATION_SECONDS,
    UNCOMPRESSED,
    Context,
    context_of,
)
from .exit_codes import PeerFailed
from .peers import Peer, calling_ae_title

# What a peer answers may break rules of the standard, and pydicom's warnings would quote it.
config.settings.reading_validation_mode = config.IGNORE
# A file is sent as it is, and not decoded and encoded again.
_config.STORE_SEND_CHUNKED_DATASET = True


@contextmanager
def association(
    peer: Peer,
    contexts: Sequence[Context],
    *,
    get: Callable[[evt.Event], int] | None = None,
    answer_seconds: float = ANSWER_SECONDS,
) -> Iterator[Association]:
    """Open an association, and release it at the end, or abort it where an exception leaves it.

    With `get`, all contexts but the first are for C-STORE sub-operations that it answers.
    """
    ae = (
        AE(ae_title=calling_ae_title())
        if peer.tls is None
        else TlsAE(calling_ae_title(), peer.address, peer.tls)
    )
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = MAX_PDU_BYTES
    ae.connection_timeout = CONNECT_SECONDS
    ae.acse_timeout = ANSWER_SECONDS
    ae.dimse_timeout = ae.network_timeout = answer_seconds
    try:
        opened = establish(
            ae,
            peer.address,
            peer.port,
            ae_title=peer.aet,
            contexts=[build_context(abstract, list(syntaxes)) for abstract, syntaxes in contexts],
            roles=(
                [
                    build_role(uid, scp_role=True)
                    for uid in dict.fromkeys(uid for uid, _ in contexts[1:])
                ]
                if get
                else []
            ),
            handlers=[(evt.EVT_C_STORE, get)] if get else [],
        )
    except Unanswered as error:
        problem = str(error)
        if isinstance(ae, TlsAE):
            problem = ae.connection.problem
        elif error.connected:
            problem += "; if it takes TLS alone on this port, give --tls"
        raise PeerFailed(f"{peer} {problem}") from error
    except NotEstablished as error:
        raise PeerFailed(f"{peer} {error}") from error
    try:
        yield opened
    except BaseException:
        opened.abort()
        raise
    if opened.is_established:
        opened.release()


@dataclass(frozen=True, slots=True)
class Echo:
    """The answer to a C-ECHO: its status, and how long association and echo took, in seconds.

    `tls` is the version that was spoken, such as `TLSv1.3`; `None` on plain TCP.
    """

    status: int
    tls: str | None
    associate_seconds: float
    echo_seconds: float


def echo(peer: Peer) -> Echo:
    """Verify a connection, PS3.4 A."""
    began = time.perf_counter()
    with association(peer, [context_of(VERIFICATION)]) as opened:
        associated = time.perf_counter()
        answer = opened.send_c_echo()
        if "Status" not in answer:
            raise PeerFailed(f"{peer} did not answer C-ECHO")
        return Echo(
            int(answer.Status),
            tls_version(opened),
            associated - began,
            time.perf_counter() - associated,
        )


class NotAccepted(PeerFailed):
    """The peer takes this instance in no context that we could offer."""


class Broken(PeerFailed):
    """The association ended instead of an answer; another one may do."""


def store(opened: Association, peer: Peer, path: Path, context: tuple[str, str]) -> int:
    """Send a file and return the status of the answer, PS3.4 B.

    `context` is the file's SOP class and transfer syntax. A file that is not compressed is sent
    in the other VR where the peer takes only that.

    Raises:
        NotAccepted: there is no accepted context for it.
        Broken: there was no answer.
    """
    sop_class_uid, transfer_syntax_uid = context
    accepted = {
        (str(each.abstract_syntax), str(each.transfer_syntax[0]))
        for each in opened.accepted_contexts
    }
    as_it_is = context in accepted
    if not as_it_is and not (
        transfer_syntax_uid in UNCOMPRESSED
        and accepted.intersection((sop_class_uid, each) for each in UNCOMPRESSED)
    ):
        raise NotAccepted(
            f"{peer} takes no {UID(sop_class_uid).name} as {UID(transfer_syntax_uid).name}"
        )
    try:
        if as_it_is:
            # A node of ours takes what is odd, and is to keep the very same.
            is_ours = opened.acceptor.implementation_class_uid == IMPLEMENTATION_CLASS_UID
            with nullcontext(path) if is_ours else _even(path) as file:
                answer = opened.send_c_store(file, priority=0)
        else:
            answer = opened.send_c_store(dcmread(path), priority=0)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise Broken(f"{peer} ended the association") from error
    if "Status" not in answer:
        raise Broken(f"{peer} did not answer C-STORE")
    return int(answer.Status)


@contextmanager
def _even(path: Path) -> Iterator[Path]:
    """Yield a file, or a copy with a zero byte behind it where its data set has an odd length.

    A fragment must have an even one (PS3.8 E.1), and DCMTK breaks off.
    """
    _, offset = split_dataset(path)
    if (path.stat().st_size - offset) % 2 == 0:
        yield path
        return
    with TemporaryDirectory() as folder:
        copied = Path(folder, path.name)
        shutil.copyfile(path, copied)
        with copied.open("ab") as end:
            end.write(b"\0")
        yield copied


def find(peer: Peer, model_uid: str, identifier: Dataset) -> Iterator[Dataset]:
    """Yield what matches an identifier, PS3.4 C.4.1."""
    with association(peer, [(model_uid, UNCOMPRESSED)]) as opened:
        for answer, match in opened.send_c_find(identifier, model_uid):
            status = _status(answer, peer, "C-FIND")
            if match is not None:
                yield match
            elif status != Status.SUCCESS:
                raise PeerFailed(
                    f"{peer} ended the query with status {status:04X}{_comment(answer)}"
                )


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a C-GET or C-MOVE is, or, when it is `final`, how it ended."""

    status: int
    remaining: int
    completed: int
    failed: int
    warning: int
    comment: str
    final: bool

    @property
    def is_whole(self) -> bool:
        """Whether everything that was asked for has been transferred."""
        return self.status == Status.SUCCESS and not self.failed


def get(
    peer: Peer,
    identifier: Dataset,
    classes: Sequence[Context],
    receive: Callable[[evt.Event], int],
) -> Iterator[Transfer]:
    """Retrieve what an identifier names over this association, PS3.4 C.4.3.

    `receive` takes each instance and returns the status of its C-STORE.
    """
    with association(
        peer,
        [context_of(STUDY_ROOT_GET), *classes],
        get=receive,
        answer_seconds=SUB_OPERATION_SECONDS,
    ) as opened:
        if STUDY_ROOT_GET not in {each.abstract_syntax for each in opened.accepted_contexts}:
            raise PeerFailed(f"{peer} does not accept C-GET")
        for answer, _ in opened.send_c_get(identifier, STUDY_ROOT_GET):
            yield _transfer(answer, peer, "C-GET")


def move(peer: Peer, destination: str, identifier: Dataset) -> Iterator[Transfer]:
    """Have a peer send what an identifier names to a destination, PS3.4 C.4.2."""
    with association(
        peer, [context_of(STUDY_ROOT_MOVE)], answer_seconds=SUB_OPERATION_SECONDS
    ) as opened:
        for answer, _ in opened.send_c_move(identifier, destination, STUDY_ROOT_MOVE):
            yield _transfer(answer, peer, "C-MOVE")


def _transfer(answer: Dataset, peer: Peer, request: str) -> Transfer:
    status = _status(answer, peer, request)
    return Transfer(
        status,
        int(answer.get("NumberOfRemainingSuboperations", 0) or 0),
        int(answer.get("NumberOfCompletedSuboperations", 0) or 0),
        int(answer.get("NumberOfFailedSuboperations", 0) or 0),
        int(answer.get("NumberOfWarningSuboperations", 0) or 0),
        _comment(answer),
        final=status != MoveStatus.PENDING,
    )


def _status(answer: Dataset, peer: Peer, request: str) -> int:
    if "Status" not in answer:
        raise Broken(f"{peer} did not answer {request}")
    return int(answer.Status)


def _comment(answer: Dataset) -> str:
    comment = answer.get("ErrorComment", "")
    return f" ({comment})" if comment else ""
