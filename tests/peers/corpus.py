"""Real files to test with, beside the repository where they are available; never part of it."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydicom
import pytest

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"

#: Honest files that their writers broke: a data set in Implicit VR, which the transfer syntax that
#: it names is not; items without a sequence; cut short. DCMTK reads none of them.
BROKEN = {
    "FreezePattern.dcm",
    "GH1339.dcm",
    "GH364.dcm",
    "MR_truncated.dcm",
    "SC_rgb_jpeg.dcm",
}

#: What storescu must be told to propose, by the transfer syntax of a file.
STORESCU_OPTIONS = {
    "1.2.840.10008.1.2": ("-xi",),
    "1.2.840.10008.1.2.1": ("-xe",),
    "1.2.840.10008.1.2.2": ("-xb",),
    "1.2.840.10008.1.2.1.99": ("-xd",),
    "1.2.840.10008.1.2.4.50": ("-xy",),
    "1.2.840.10008.1.2.4.51": ("-xx",),
    "1.2.840.10008.1.2.4.70": ("-xs",),
    "1.2.840.10008.1.2.4.80": ("-xt",),
    "1.2.840.10008.1.2.4.81": ("-xu",),
    "1.2.840.10008.1.2.4.90": ("-xv",),
    "1.2.840.10008.1.2.4.91": ("-xw",),
    "1.2.840.10008.1.2.4.100": ("-xm",),
    "1.2.840.10008.1.2.4.101": ("-xh",),
    "1.2.840.10008.1.2.4.102": ("-xn",),
    "1.2.840.10008.1.2.4.103": ("-xl",),
    "1.2.840.10008.1.2.5": ("-xr",),
}


@dataclass(frozen=True)
class CorpusFile:
    """One file and what the corpus's index says of it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    hostile: bool
    dcmtk_reads: bool


@cache
def corpus_files() -> tuple[CorpusFile, ...]:
    """List the corpus; the tests that need it are skipped where it is not there."""
    index = CORPUS / "index.tsv"
    if not index.exists():
        pytest.skip(f"the corpus of real files is not at {CORPUS}")
    with index.open(encoding="utf-8") as lines:
        return tuple(
            CorpusFile(
                CORPUS / "files" / row["path"],
                row["sop_class_uid"],
                row["sop_instance_uid"],
                row["transfer_syntax_uid"],
                hostile=row["source"] == "dicom-fuzzing-corpus",
                dcmtk_reads=row["dcmtk_reads"] == "yes",
            )
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        )


def data_set_of(path: Path) -> bytes:
    """Return the encoded data set of a PS3.10 file, as it is."""
    with path.open("rb") as file:
        pydicom.filereader.read_preamble(file, force=True)
        meta = pydicom.filereader._read_file_meta_info(file)
        assert meta is not None
        return file.read()
