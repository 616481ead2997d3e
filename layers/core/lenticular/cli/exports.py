"""`lenticular export`: stored studies as a file-set, a folder with a DICOMDIR (PS3.10 8)."""

import contextlib
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from lenticular.archive import Archive
from lenticular.errors import InstanceMissing, OperatorError
from lenticular.identifiers import is_uid
from lenticular.index import Index
from lenticular.originals import read_original

from . import printing, stores
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
@printing.as_json
def export(studies: tuple[str, ...], folder: Path, *, as_json: bool) -> None:
    """Write the studies with these Study Instance UIDs into FOLDER, which must be empty or new.

    Files are the bytes that were received, from the bucket; FOLDER/DICOMDIR lists them. What a
    record there must say and an instance does not (a Study ID, say) is invented in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OperatorError(f"{folder} is not empty")
    for uid in studies:
        if not is_uid(uid):
            raise OperatorError(f"{uid!r} is not a UID")
    index, archive = stores.index(), stores.archive()
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for uid in studies:
        item = index.study(uid)
        if item is None:
            raise OperatorError(f"there is no study {uid}")
        total += int(str(item["instances"]))
    with (
        progress_bar(total, "instances") as bar,
        # Beside the files, so that each is moved and not copied.
        tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch,
    ):
        missing: list[str] = []
        exported = _FileSet(folder)
        for number, (uid, file) in enumerate(_originals(index, archive, studies, missing)):
            bar.update(1)
            path = Path(scratch) / str(number)
            path.write_bytes(file)
            exported.add(uid, path)
        exported.write()
    for uid in missing:
        click.echo(f"{uid}: the bucket does not hold it", err=True)
    facts = {"files": exported.files, "not_in_dicomdir": exported.others, "missing": len(missing)}
    printing.print_facts(facts, as_json=as_json)
    if missing or exported.others:
        raise NotAllIsWell("not everything is in the folder and its DICOMDIR")


def _originals(
    index: Index, archive: Archive, studies: tuple[str, ...], missing: list[str]
) -> Iterator[tuple[str, memoryview]]:
    for study in dict.fromkeys(studies):
        for item in index.instances(study):
            uid = str(item["uid"])
            try:
                yield uid, read_original(lambda key: memoryview(archive.read(key)), item)
            except InstanceMissing:
                missing.append(uid)


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
        header = dcmread(BytesIO(path.read_bytes()), stop_before_pixels=True)
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
