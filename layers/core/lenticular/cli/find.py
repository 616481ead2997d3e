"""`lenticular find`, `lenticular get` and `lenticular explain`: queries and retrieval."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lenticular.errors import OperatorError
from lenticular.identifiers import is_uid
from lenticular.part10 import file_head
from lenticular.placement import place
from lenticular.planner import explain as explain_query
from lenticular.query import Model, read_keys, read_query
from lenticular.sop_classes import (
    PATIENT_ROOT_FIND,
    PATIENT_STUDY_ONLY_FIND,
    STORAGE,
    STUDY_ROOT_FIND,
)
from lenticular.status import Status, StoreStatus

from . import printing
from .association_requests import to_receive
from .disk import naming
from .exit_codes import NotAllIsWell, PeerFailed
from .pace import progress_bar
from .peers import Peer, peer_named, this_node
from .tls import TlsOptions, tls_options

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MODELS: Final = {
    "patient-root": Model.PATIENT_ROOT,
    "study-root": Model.STUDY_ROOT,
    "patient-study-only": Model.PATIENT_STUDY_ONLY,
}
_FIND: Final = {
    "patient-root": PATIENT_ROOT_FIND,
    "study-root": STUDY_ROOT_FIND,
    "patient-study-only": PATIENT_STUDY_ONLY_FIND,
}
#: What is asked for unless somebody says otherwise.
_KEYS: Final = {
    "PATIENT": ("PatientID", "PatientName", "PatientBirthDate"),
    "STUDY": (
        *("StudyInstanceUID", "StudyDate", "ModalitiesInStudy", "PatientID", "AccessionNumber"),
        "NumberOfStudyRelatedInstances",
    ),
    "SERIES": ("SeriesInstanceUID", "Modality", "SeriesNumber", "NumberOfSeriesRelatedInstances"),
    "IMAGE": ("SOPInstanceUID", "SOPClassUID", "InstanceNumber"),
}

_keys = click.option(
    "-k", "--key", "keys", multiple=True, metavar="KEY[=VALUE]", help="as of findscu -k"
)
_model = click.option(
    "--model", type=click.Choice(list(_MODELS)), default="study-root", show_default=True
)
_from = click.option(
    "--from",
    "source",
    metavar="PEER",
    help="AE title of a node, or AET@address:port; default this node.",
)


@click.command()
@_keys
@_model
@click.option(
    "--level",
    type=click.Choice(list(_KEYS), case_sensitive=False),
    default="STUDY",
    show_default=True,
)
@_from
@tls_options
@printing.as_json
def find(  # noqa: PLR0913 - options of a command
    keys: tuple[str, ...],
    *,
    model: str,
    level: str,
    source: str | None,
    tls: TlsOptions,
    as_json: bool,
) -> None:
    """Print what matches at a peer: a line each, the keys its columns.

    Answers may name patients. Without -k a few keys of the level are asked for.
    """
    from .service_user import find as find_at

    peer = peer_named(source, tls) if source else this_node(tls)
    wanted = keys or _KEYS[level]
    asked = identifier(level, wanted)
    tags = list(read_keys(wanted))
    rows = (_row(match, tags) for match in find_at(peer, _FIND[model], asked))
    printing.print_rows(rows, as_json=as_json)


def identifier(level: str, keys: Sequence[str]) -> "Dataset":
    """Return the identifier of a query or retrieval; raises `InvalidIdentifier`."""
    from pydicom.dataset import Dataset

    elements: dict[str, Any] = {f"{tag:08X}": element for tag, element in read_keys(keys).items()}
    asked = Dataset.from_json(elements)
    asked.QueryRetrieveLevel = level
    if not all(key.isascii() for key in keys):
        asked.SpecificCharacterSet = "ISO_IR 192"
    return asked


def _row(match: "Dataset", tags: Sequence[int]) -> dict[str, object]:
    """Return the values of some attributes by keyword, several as the standard joins them."""
    from pydicom.datadict import keyword_for_tag
    from pydicom.multival import MultiValue

    row: dict[str, object] = {}
    for tag in tags:
        value: Any = match[tag].value if tag in match else None
        several = isinstance(value, MultiValue)
        text = "\\".join(map(str, value)) if several else "" if value is None else str(value)
        row[keyword_for_tag(tag) or f"{tag:08X}"] = text
    return row


@click.command()
@click.argument("study")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--series", multiple=True, help="Only a series of it; repeatable.")
@_from
@tls_options
@printing.as_json
def get(  # noqa: PLR0913 - options of a command
    study: str,
    folder: Path,
    *,
    series: tuple[str, ...],
    source: str | None,
    tls: TlsOptions,
    as_json: bool,
) -> None:
    """Get the study with the Study Instance UID STUDY into FOLDER, uncompressed.

    Files are FOLDER/study/series/instance.dcm; one that is there is replaced. `lenticular export`
    gives the bytes that were received instead.
    """
    for uid in (study, *series):
        if not is_uid(uid):
            raise OperatorError(f"{uid!r} is not a UID")
    peer = peer_named(source, tls) if source else this_node(tls)
    keys = [f"StudyInstanceUID={study}"]
    if series:
        keys.append("SeriesInstanceUID=" + "\\".join(series))
    received = _get(peer, identifier("SERIES" if series else "STUDY", keys), study, folder)
    printing.print_facts({"study_instance_uid": study, "files": received}, as_json=as_json)


def _get(peer: Peer, asked: "Dataset", study: str, folder: Path) -> int:
    from .service_user import get as get_from

    received = 0
    unwritten: list[OSError] = []

    def receive(event: Any) -> int:  # noqa: ANN401 - pynetdicom has no narrower type
        nonlocal received
        request = event.request
        data_set = request.DataSet.getvalue()
        uids = (
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
        )
        try:
            with naming(folder):
                if not _write(folder, data_set, *uids):
                    return StoreStatus.CANNOT_UNDERSTAND
        except OSError as error:
            unwritten.append(error)
            return StoreStatus.OUT_OF_RESOURCES
        received += 1
        return Status.SUCCESS

    ended = None
    contexts = to_receive(_classes_in(peer, study))
    with progress_bar(0, "instances") as bar:
        for ended in get_from(peer, asked, contexts, receive):
            if unwritten:
                raise unwritten[0]  # our disk's failure; what is left need not be sent
            bar.length = ended.completed + ended.failed + ended.warning + ended.remaining
            bar.update(received - bar.pos)
    if ended is None or (not ended.is_whole and not received):
        status = "no answer" if ended is None else f"{ended.status:04X}{ended.comment}"
        raise PeerFailed(f"{peer} ended the retrieval with status {status}")
    if not ended.is_whole:
        raise NotAllIsWell(f"{received} instances received, {ended.failed} failed at {peer}")
    return received


def _classes_in(peer: Peer, study: str) -> list[str]:
    """Ask which storage classes a study has; who does not say is offered as many as there are."""
    from .service_user import find as find_at

    asked = identifier("STUDY", [f"StudyInstanceUID={study}", "SOPClassesInStudy"])
    found = list(find_at(peer, STUDY_ROOT_FIND, asked))
    if not found:
        raise OperatorError(f"{peer} has no study {study}")
    classes = found[0].get("SOPClassesInStudy") or list(STORAGE)
    return [classes] if isinstance(classes, str) else [str(uid) for uid in classes]


def _write(folder: Path, data_set: bytes, sop_class: str, sop_instance: str, syntax: str) -> bool:
    """Write a file where its UIDs say; False when they are not UIDs, which may become paths."""
    placement = place(
        data_set,
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        transfer_syntax_uid=syntax,
    )
    if placement.problem is not None:
        return False
    path = folder / placement.study_instance_uid / placement.series_instance_uid
    path.mkdir(parents=True, exist_ok=True)
    part = path / f"{sop_instance}.part"
    part.write_bytes(file_head(sop_class, sop_instance, syntax) + data_set)
    part.replace(path / f"{sop_instance}.dcm")
    return True


@click.command()
@_keys
@click.option("--model", type=click.Choice(list(_MODELS)), default="study-root")
@click.option("--level", default="STUDY", show_default=True, help="PATIENT, STUDY, SERIES or IMAGE")
@click.option("--relational", is_flag=True, help="as if relational queries were negotiated")
@printing.as_json
def explain(
    keys: tuple[str, ...], *, model: str, level: str, relational: bool, as_json: bool
) -> None:
    """Print which way a C-FIND with these keys goes through the index; nothing is read."""
    keys_read = read_keys((f"QueryRetrieveLevel={level}", *keys))
    explained = explain_query(read_query(_MODELS[model], keys_read, relational=relational))
    if as_json:
        click.echo(printing.to_json(explained))
        return
    click.echo(f"plan  {explained['plan']}")
    by = explained["by"]
    assert isinstance(by, dict)
    for name, value in by.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        click.echo(f"by    {name.replace('_', ' ')}: {shown or 'open'}")
    then = explained["then"]
    assert isinstance(then, list)
    for each in then:
        click.echo(f"then  {each}")
