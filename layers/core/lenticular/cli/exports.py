"""`lenticular export`: stored studies as a file-set, a folder with a DICOMDIR (PS3.10 8)."""

import contextlib
import socket
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from lenticular.answers import patient_id_of
from lenticular.archive import Archive
from lenticular.audit import AuditSource, Outcome, Study
from lenticular.audit_outlets import Outlet, OutletFailed
from lenticular.errors import InstanceMissing, OperatorError
from lenticular.identifiers import is_uid
from lenticular.index import Index
from lenticular.index_items import Item
from lenticular.originals import write_original

from . import printing, stores, trail
from .disk import naming
from .exit_codes import NotAllIsWell
from .pace import progress_bar

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: What a record must say and an instance need not (PS3.3 F.5, type 1); what is said then.
_INVENTED: Final = {
    "PatientID": "UNKNOWN",
    "StudyDate": "19000101",
    "StudyTime": "000000",
    "StudyID": "0",
    "Modality": "OT",
    "SeriesNumber": "0",
    "InstanceNumber": "0",
}
#: Where files go that no record of the standard's can be written of.
_OTHERS: Final = "OTHERS"


@click.command("export")
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@trail.no_audit_option
@printing.as_json
def export(studies: tuple[str, ...], folder: Path, *, no_audit: bool, as_json: bool) -> None:
    """Write the studies with these Study Instance UIDs into FOLDER, which must be empty or new.

    Files are the bytes that were received, from the bucket; FOLDER/DICOMDIR lists them. What a
    record there must say and an instance does not (a Study ID, say) is invented in it. The audit
    trail is told, where LENTICULAR_AUDIT_LOG_GROUP, _FILE or _SYSLOG says where that is.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OperatorError(f"{folder} is not empty")
    index, archive, outlets = stores.index(), stores.archive(), trail.outlets()
    found = _found(index, studies)
    trail.warn_if_nowhere(outlets, known=no_audit)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(int(str(item["instances"])) for item in found.values())
    missing: list[str] = []
    exported = _FileSet(folder)
    told = _Told({uid: patient_id_of(item) for uid, item in found.items()})
    try:
        with (
            naming(folder),
            progress_bar(total, "instances") as bar,
            # Beside the files, so that each is moved and not copied.
            tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch,
        ):
            for study in found:
                for item in index.instances(study):
                    path = Path(scratch) / str(exported.files)
                    is_there = _is_written(archive, item, path)
                    bar.update(1)
                    uid = str(item["uid"])
                    told.count(study, item, is_there=is_there)
                    if is_there:
                        exported.add(uid, path)
                    else:
                        missing.append(uid)
            exported.write()
    finally:
        # Also of what was read before it broke off.
        untold = told.tell(outlets, folder.absolute().as_uri())
    for uid in missing:
        click.echo(f"{uid}: the bucket does not hold it", err=True)
    facts = {"files": exported.files, "not_in_dicomdir": exported.others, "missing": len(missing)}
    printing.print_facts(facts, as_json=as_json)
    if untold:
        raise NotAllIsWell(f"the export is not in the audit trail ({untold}): export once more")
    if missing or exported.others:
        raise NotAllIsWell("not everything is in the folder and its DICOMDIR")


def _found(index: Index, studies: tuple[str, ...]) -> dict[str, Item]:
    """Return the items of the studies by UID, or raise `OperatorError`."""
    for uid in studies:
        if not is_uid(uid):
            raise OperatorError(f"{uid!r} is not a UID")
    found = {}
    for uid in dict.fromkeys(studies):
        item = index.study(uid)
        if item is None:
            raise OperatorError(f"there is no study {uid}")
        found[uid] = item
    return found


def _is_written(archive: Archive, item: Item, path: Path) -> bool:
    """Write the file of an instance; tell whether the bucket holds it."""
    with path.open("wb") as out:
        try:
            write_original(archive, item, out)
        except InstanceMissing:
            return False
    return True


class _Told:
    """What the audit trail is told of an export: instances by study, and those that failed."""

    def __init__(self, patients: Mapping[str, str]) -> None:
        self._patients = patients
        self._instances: defaultdict[tuple[str, Outcome], Counter[str]] = defaultdict(Counter)

    def count(self, study: str, item: Item, *, is_there: bool) -> None:
        outcome = Outcome.SUCCESS if is_there else Outcome.MINOR_FAILURE
        self._instances[study, outcome][str(item["sop_class_uid"])] += 1

    def tell(self, outlets: Sequence[Outlet], uri: str) -> str:
        """Tell every outlet; return why one did not take it."""
        source = AuditSource("lenticular", socket.gethostname())
        messages = [
            source.exported(
                Study(study, self._patients[study], instances), trail.person(), uri, outcome
            )
            for (study, outcome), instances in self._instances.items()
        ]
        reasons = []
        for outlet in outlets if messages else ():
            try:
                outlet.send(messages)
            except OutletFailed as error:
                reasons.append(str(error))
        return ", ".join(reasons)


class _FileSet:
    """A file-set whose files are as they were received.

    pydicom writes its records, from headers alone, and names its files; ours then take their place.
    """

    def __init__(self, folder: Path) -> None:
        from pydicom.fileset import FileSet

        self._folder = folder
        self._set: FileSet = FileSet()
        self._paths: dict[str, Path] = {}
        self.files = self.others = 0

    def add(self, uid: str, path: Path) -> None:
        """Take a file; it is gone from `path` after `write`."""
        from pydicom import dcmread

        self.files += 1
        header = dcmread(path, stop_before_pixels=True)
        if uid not in self._paths:
            # A class without a record of its own, or not even the UIDs that one needs.
            with contextlib.suppress(ValueError, AttributeError, KeyError):
                self._set.add(_with_what_records_need(header))
                self._paths[uid] = path
                return
        others = self._folder / _OTHERS
        others.mkdir(exist_ok=True)
        self.others += 1
        path.replace(others / f"{self.others:08}")

    def write(self) -> None:
        """Write files and DICOMDIR."""
        if not self._paths:
            return
        self._set.write(self._folder)
        for instance in self._set:
            self._paths[str(instance.SOPInstanceUID)].replace(instance.path)


def _with_what_records_need(header: "Dataset") -> "Dataset":
    for keyword, value in _INVENTED.items():
        if header.get(keyword) in (None, ""):
            setattr(header, keyword, value)
    return header
