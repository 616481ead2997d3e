"""By which keys the index finds things: those of the table, and of its secondary indexes.

A study is one partition: an item for the study, one for each series, one for each instance.

    pk                sk                        says
    STUDY#{study}     STUDY                     patient and study attributes, counts, modalities
    STUDY#{study}     SERIES#{series}           series attributes, count
    STUDY#{study}     INSTANCE#{series}#{sop}   instance attributes, where the object is
    STUDY#{study}     PROCEDURE#{step}          a performed procedure step, what of it has come
    STUDY#{study}     TALLY#{series}#{shard}    which instances the series has, twelve bytes each
    STUDY#{study}     COPY#{series}#{sop}#{sha256}   a content of an instance that has several
    MONTH             {YYYY-MM}                 that there may be studies of this month
    QUARANTINE        {object key}              why an object has no place above
    LEASE#{study}     {name}                    that somebody writes above what it read before

Secondary indexes lead to what has their keys among its attributes:

    by-patient        patient_id, study_moment            a study
    by-accession      accession_number, study_moment      a study
    by-date           study_month, study_moment           a study
    by-name           name_initial, name_folded           a study
    by-uid            uid                                 a series or an instance, its keys alone
    by-procedure      procedure_month, procedure_moment   a performed procedure step
"""

from collections.abc import Mapping
from typing import Final

from .dicom_json import JsonElement, first_text, values_of
from .matching import fold_person_name

QUARANTINE_PARTITION: Final = "QUARANTINE"
STUDY_SORT_KEY: Final = "STUDY"
_STUDY_PARTITIONS: Final = "STUDY#"
SERIES_PREFIX: Final = "SERIES#"
INSTANCE_PREFIX: Final = "INSTANCE#"
PROCEDURE_PREFIX: Final = "PROCEDURE#"
TALLY_PREFIX: Final = "TALLY#"
COPY_PREFIX: Final = "COPY#"
MONTH_PARTITION: Final = "MONTH"
LEASE_PREFIX: Final = "LEASE#"

UNKNOWN_MONTH: Final = "unknown"
#: A longer value is kept as an attribute but leads to nothing: DICOM's own limit is 64 (LO), and
#: a DynamoDB key holds 1,024 bytes at most.
INDEXED_CHARACTERS: Final = 200

_PATIENT_ID: Final = "00100020"
_PATIENT_NAME: Final = "00100010"
_ACCESSION_NUMBER: Final = "00080050"
_STUDY_DATE: Final = "00080020"
_STUDY_TIME: Final = "00080030"
_DATE_DIGITS: Final = 8
_TIME_DIGITS: Final = 6
_FIRST_DAY: Final = {4: "0101", 6: "01"}


def study_partition(study_instance_uid: str) -> str:
    """Name the partition of a study."""
    return f"{_STUDY_PARTITIONS}{study_instance_uid}"


def study_uid_of(item: Mapping[str, object]) -> str:
    """Read the Study Instance UID from the keys of an item; empty for items of no study."""
    partition = str(item["pk"])
    is_of_study = partition.startswith(_STUDY_PARTITIONS)
    return partition.removeprefix(_STUDY_PARTITIONS) if is_of_study else ""


def lease_partition(study_instance_uid: str) -> str:
    """Name the partition of the leases on a study."""
    return f"{LEASE_PREFIX}{study_instance_uid}"


def series_sort_key(series_instance_uid: str) -> str:
    """Name the sort key of a series within its study."""
    return f"{SERIES_PREFIX}{series_instance_uid}"


def series_uid_of(item: Mapping[str, object]) -> str | None:
    """Read the Series Instance UID from the keys of a series' item; None for other kinds."""
    sort_key = str(item["sk"])
    return sort_key.removeprefix(SERIES_PREFIX) if sort_key.startswith(SERIES_PREFIX) else None


def instances_sort_prefix(series_instance_uid: str | None = None) -> str:
    """Return what the sort keys of all instances of a series, or of the study, begin with."""
    of_series = "" if series_instance_uid is None else f"{series_instance_uid}#"
    return f"{INSTANCE_PREFIX}{of_series}"


def instance_sort_key(series_instance_uid: str, sop_instance_uid: str) -> str:
    """Name the sort key of an instance within its study."""
    return f"{instances_sort_prefix(series_instance_uid)}{sop_instance_uid}"


def series_of_instance(item: Mapping[str, object]) -> tuple[str, str] | None:
    """Read study and series from the keys of an instance's item; None for other kinds."""
    sort_key = str(item["sk"])
    if not sort_key.startswith(INSTANCE_PREFIX):
        return None
    return study_uid_of(item), sort_key.removeprefix(INSTANCE_PREFIX).partition("#")[0]


def sop_instance_uid_of(item: Mapping[str, object]) -> str:
    """Read the SOP Instance UID from the keys of an instance's item."""
    return str(item["sk"]).rpartition("#")[2]


def procedure_sort_key(sop_instance_uid: str) -> str:
    """Name the sort key of a performed procedure step within its study."""
    return f"{PROCEDURE_PREFIX}{sop_instance_uid}"


def tallies_sort_prefix(series_instance_uid: str) -> str:
    """Return what the sort keys of all tallies of a series begin with."""
    return f"{TALLY_PREFIX}{series_instance_uid}#"


def copies_sort_prefix(series_instance_uid: str, sop_instance_uid: str | None = None) -> str:
    """Return what the sort keys of the listed contents of an instance, or a series, begin with."""
    of_instance = "" if sop_instance_uid is None else f"{sop_instance_uid}#"
    return f"{COPY_PREFIX}{series_instance_uid}#{of_instance}"


def study_moment(elements: Mapping[str, JsonElement]) -> tuple[str, str]:
    """Return the month and moment the by-date index files a study under.

    The moment is `YYYYMMDD` + `THHMMSS`; a date that is absent or not one is in `unknown`.
    """
    return month_and_moment(
        first_text(elements, _STUDY_DATE) or "", first_text(elements, _STUDY_TIME) or ""
    )


def month_and_moment(date: str, time: str) -> tuple[str, str]:
    """Return `YYYY-MM` and `YYYYMMDD` + `THHMMSS` of a date and a time as DICOM writes them."""
    date = _digits(date)
    # A partial date counts from its first day, as it does in matching.
    date += _FIRST_DAY.get(len(date), "")
    if len(date) != _DATE_DIGITS:
        return UNKNOWN_MONTH, "00000000T000000"
    return f"{date[:4]}-{date[4:6]}", f"{date}T{_digits(time)[:_TIME_DIGITS]:0<6}"


def name_index_key(folded: str) -> str:
    """Return the by-name partition of a folded name or of a prefix of one."""
    return folded[0]


def keys_of_study(elements: Mapping[str, JsonElement]) -> dict[str, str]:
    """Return the keys of the secondary indexes that lead to a study of these attributes."""
    month, moment = study_moment(elements)
    keys = {"study_month": month, "study_moment": moment}
    for tag, name in ((_PATIENT_ID, "patient_id"), (_ACCESSION_NUMBER, "accession_number")):
        text = first_text(elements, tag)
        if text and len(text) <= INDEXED_CHARACTERS:
            keys[name] = text
    names = values_of(elements.get(_PATIENT_NAME))
    person = names[0] if names else None
    folded = fold_person_name(str(person.get("Alphabetic", ""))) if isinstance(person, dict) else ""
    if folded:
        keys |= {
            "name_initial": name_index_key(folded),
            "name_folded": folded[:INDEXED_CHARACTERS],
        }
    return keys


def _digits(text: str) -> str:
    return "".join(character for character in text if character in "0123456789")
