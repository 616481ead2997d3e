"""findscu asks for every attribute of the catalogue, by every kind of matching, in every model.

Two patients are stored, the first with two series, and two instances in one of them. So whatever
level an attribute is of, one entity has one value of it and its neighbour another:

    P83A ── study ──┬── series ──┬── instance        neighbours: the patients (and their studies),
                    │            └── instance        the series of the first study, the instances
                    └── series ───── instance        of its first series
    P83B ── study ───── series ───── instance
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from lenticular.attributes import (
    BY_QUERY_RETRIEVE_LEVEL,
    CATALOGUE,
    COMPUTED,
    UNIQUE_KEY,
    Attribute,
    Level,
)
from lenticular.query import QUERY_RETRIEVE_LEVEL
from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.conftest import Clinic
from tests.peers.node_process import Node

pytestmark = pytest.mark.peers

_ROOT: Final = "1.2.826.0.1.83"
#: Patient and study, series, instance.
_INSTANCES: Final = ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
_MODELS: Final = {"-P": tuple(Level), "-S": tuple(Level)[1:], "-O": tuple(Level)[:2]}
_UNIQUE: Final = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_LEVELS: Final = [(model, level) for model, levels in _MODELS.items() for level in levels]
#: What is worked out of the first entity of each level.
_COMPUTED: Final = {
    "InstanceAvailability": "ONLINE",
    "ModalitiesInStudy": "CT\\MR",
    "SOPClassesInStudy": f"{CTImageStorage}\\{MRImageStorage}",
    "NumberOfPatientRelatedStudies": "1",
    "NumberOfPatientRelatedSeries": "2",
    "NumberOfPatientRelatedInstances": "3",
    "NumberOfStudyRelatedSeries": "2",
    "NumberOfStudyRelatedInstances": "3",
    "NumberOfSeriesRelatedInstances": "2",
}
_SUCCESS: Final = "Success"
_REFUSED: Final = "Error: DataSetDoesNotMatchSOPClass"
#: It says how to read the times among the keys, so no value of it keeps anything out (PS3.4
#: C.4.1.1.3.1).
_QUALIFIER: Final = "TimezoneOffsetFromUTC"


def _data_set(**values: Any) -> Dataset:
    """Make a data set of whatever values, keys of queries too."""
    data_set = Dataset()
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        vr = dictionary_VR(tag)
        data_set.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
    return data_set


def _code(value: str) -> Dataset:
    return _data_set(
        CodeValue=value, CodingSchemeDesignator="99TEST", CodeMeaning=f"Meaning of {value}"
    )


def _other_id(value: str) -> Dataset:
    return _data_set(PatientID=value, TypeOfPatientID="TEXT")


def _request(value: str) -> Dataset:
    return _data_set(RequestedProcedureID=value, ScheduledProtocolCodeSequence=[_code(f"P{value}")])


@dataclass(frozen=True)
class Said:
    """What an entity says, what its neighbour says, and keys that match the first alone."""

    value: Any
    of_neighbour: Any
    keys: tuple[Any, ...] = ()


_OF_VR: Final = {
    "AS": Said("034Y", "056Y"),
    "CS": Said("ALPHA", "BETA", ("AL*", "?LPHA", "*PH*", "GAMMA\\ALPHA")),
    "DA": Said("20240131", "20250228", ("20240101-20241231", "-20240131", "2024.01.31")),
    "DS": Said("1.5", "-2.25", ("1.50", "+15e-1")),
    "DT": Said("20240131101500.5", "20250228235959", ("2023-20240131", "-202412", "202401")),
    "IS": Said("7", "12", ("07", "8\\7")),
    "LO": Said("Alpha one", "Beta two", ("Alpha*", "*one", "?lpha o*", "Gamma\\Alpha one")),
    "LT": Said("Alpha, one; two", "Beta", ("Alpha*", "*one*", "Alpha, one; t?o")),
    "PN": Said("Alpha^Anna", "Beta^Boris", ("ALPHA*", "alpha^anna", "*^?NN?", "Gamma\\Alpha^Anna")),
    "SH": Said("Alpha 1", "Beta 2", ("Alpha*", "*1", "?????*1")),
    "TM": Said("101500.25", "235959", ("10-1030", "-1200", "10:15", "1015")),
    "US": Said(512, 256),
}
#: Where any value of the VR will not do.
_OF_KEYWORD: Final = {
    "ConceptNameCodeSequence": Said(
        [_code("A1")], [_code("B1")], ([_data_set(CodeValue="A1")], [_data_set(CodeMeaning="*A1")])
    ),
    "FrameOfReferenceUID": Said(f"{_ROOT}.8.1", f"{_ROOT}.8.2", (f"1.2.3\\{_ROOT}.8.1",)),
    "ImageOrientationPatient": Said("1\\0\\0\\0\\1\\0", "0.5\\0.5\\0.5\\0.5\\0.5\\-1", ("1",)),
    "ImagePositionPatient": Said("-1.5\\2\\30", "-4\\5\\35", ("30", "30.0")),
    "ImageType": Said("ORIGINAL\\PRIMARY\\AXIAL", "DERIVED\\SECONDARY", ("PRIMARY", "ORIG*")),
    "Modality": Said("CT", "MR", ("CT\\PT", "C?")),
    "OtherPatientIDs": Said("OTHER 1\\OTHER 2", "OTHER 3", ("OTHER 2", "*1")),
    "OtherPatientIDsSequence": Said(
        [_other_id("A1"), _other_id("A2")], [_other_id("B1")], ([_data_set(PatientID="A2")],)
    ),
    "PatientID": Said("P83A", "P83B", ("P83A*", "?83A", "P83X\\P83A")),
    "PatientSex": Said("F", "M"),
    "PixelSpacing": Said("0.5\\0.75", "1\\1", ("0.75",)),
    "ProcedureCodeSequence": Said(
        [_code("A1"), _code("A2")], [_code("B1")], ([_data_set(CodeValue="A2")],)
    ),
    "RequestAttributesSequence": Said(
        [_request("A1"), _request("A2")],
        [_request("B1")],
        (
            [_data_set(RequestedProcedureID="A?")],
            [_data_set(ScheduledProtocolCodeSequence=[_data_set(CodeValue="PA2")])],
        ),
    ),
    "SeriesInstanceUID": Said(f"{_ROOT}.1.1", f"{_ROOT}.1.2", (f"1.2.3\\{_ROOT}.1.1",)),
    "SOPClassUID": Said(CTImageStorage, MRImageStorage),
    "SOPInstanceUID": Said(f"{_ROOT}.1.1.1", f"{_ROOT}.1.1.2", (f"1.2.3\\{_ROOT}.1.1.1",)),
    "StudyInstanceUID": Said(f"{_ROOT}.1", f"{_ROOT}.2", (f"1.2.3\\{_ROOT}.1",)),
    _QUALIFIER: Said("+0100", "-0500"),
}


def _said(attribute: Attribute) -> Said:
    return _OF_KEYWORD.get(attribute.keyword) or _OF_VR[attribute.vr]


def _value(attribute: Attribute, place: tuple[int, int, int]) -> Any:
    """Return what the instance at a place says."""
    said = _said(attribute)
    at = place[max(0, attribute.level - 1)]
    return said.of_neighbour if at else said.value


def _uids(place: tuple[int, int, int]) -> dict[str, str]:
    study, series, instance = (number + 1 for number in place)
    return {
        "StudyInstanceUID": f"{_ROOT}.{study}",
        "SeriesInstanceUID": f"{_ROOT}.{study}.{series}",
        "SOPInstanceUID": f"{_ROOT}.{study}.{series}.{instance}",
    }


@pytest.fixture(scope="module")
def node(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Store the instances by storescu, and wait until all can be found."""
    folder = tmp_path_factory.mktemp("instances")
    files = []
    for place in _INSTANCES:
        values = {each.keyword: _value(each, place) for each in CATALOGUE} | _uids(place)
        data_set = _data_set(**values)
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        files.append(folder / f"{data_set.SOPInstanceUID}.dcm")
        data_set.save_as(files[-1], enforce_file_format=True)
    assert dcmtk.store(clinic.node, *files) == [0] * len(files)
    both = f"StudyInstanceUID={_ROOT}.1\\{_ROOT}.2"
    eventually(
        lambda: dcmtk.find(clinic.node, "STUDY", both, "NumberOfStudyRelatedInstances"),
        until=lambda answers: sorted(each["0020,1208"] for each in answers) == ["1", "3"],
    )
    return clinic.node


def _first_above(model: str, level: Level) -> dict[str, Any]:
    """Return the unique keys of what the first entity of a level is in."""
    above = (_UNIQUE[each] for each in _MODELS[model] if each < level)
    return {keyword: _OF_KEYWORD[keyword].value for keyword in above}


def _restricted(model: str) -> Iterator[tuple[Dataset, set[str]]]:
    """Yield identifiers with one attribute as the key, and the unique keys of what matches.

    Each could match one of two neighbours, for their unique keys are given, too. In the patient
    root there is but one study at STUDY level.
    """
    top, *_, lowest = _MODELS[model]
    for attribute in CATALOGUE:
        level = max(attribute.level, top)
        if level > lowest:
            continue
        unique, said = _OF_KEYWORD[_UNIQUE[level]], _said(attribute)
        named = {_UNIQUE[level]: f"{unique.value}\\{unique.of_neighbour}"}
        there = {unique.value, unique.of_neighbour}
        if level is Level.STUDY and model != "-S":
            there.remove(unique.of_neighbour)
        # How each kind is matched has nothing to do with the model.
        others = said.keys if model == "-S" else ()
        for key in (said.value, *others, said.of_neighbour):
            matches = {unique.of_neighbour if key == said.of_neighbour else unique.value}
            keys = _first_above(model, level) | named | {attribute.keyword: key}
            identifier = _data_set(QueryRetrieveLevel=level.query_retrieve_level, **keys)
            yield identifier, there if attribute.keyword == _QUALIFIER else matches & there


@pytest.mark.parametrize("model", _MODELS)
def test_every_attribute_is_a_key_by_every_kind_of_matching_of_its_vr(
    node: Node, tmp_path: Path, model: str
) -> None:
    asked = list(_restricted(model))
    answered = dcmtk.find_each(node, tmp_path, *(each for each, _ in asked), model=model)
    for (identifier, matches), answer in zip(asked, answered, strict=True):
        level = BY_QUERY_RETRIEVE_LEVEL[identifier.QueryRetrieveLevel]
        found = [match[_name(UNIQUE_KEY[level].tag)] for match in answer.matches]
        assert answer.final == _SUCCESS, identifier
        assert set(answer.pending) <= {"Pending"}, identifier
        assert sorted(found) == sorted(matches), identifier


@pytest.mark.parametrize(("model", "level"), _LEVELS)
def test_every_attribute_of_a_level_and_those_above_is_returned(
    node: Node, tmp_path: Path, model: str, level: Level
) -> None:
    attributes = [each for each in (*CATALOGUE, *COMPUTED) if each.level <= level]
    keys = dict.fromkeys((each.keyword for each in attributes), None)
    named = {_UNIQUE[level]: _OF_KEYWORD[_UNIQUE[level]].value}
    identifier = _data_set(
        QueryRetrieveLevel=level.query_retrieve_level,
        **keys | _first_above(model, level) | named,
    )
    [answer] = dcmtk.find_each(node, tmp_path, identifier, model=model)
    assert (answer.pending, answer.final) == (["Pending"], _SUCCESS)
    [match] = answer.matches
    said = {each.tag: _as_printed(_said(each).value) for each in CATALOGUE if each.level <= level}
    worked_out = _COMPUTED | {"RetrieveAETitle": node.aet}
    said |= {each.tag: worked_out[each.keyword] for each in COMPUTED if each.level <= level}
    said[QUERY_RETRIEVE_LEVEL] = level.query_retrieve_level
    assert match == {_name(tag): value for tag, value in said.items()}


def test_what_is_worked_out_is_a_key(node: Node, tmp_path: Path) -> None:
    both = f"{_ROOT}.1\\{_ROOT}.2"
    asked = {
        ("ModalitiesInStudy", "MR"): 1,
        ("ModalitiesInStudy", "CT"): 2,
        ("ModalitiesInStudy", "M?"): 1,
        ("ModalitiesInStudy", "PT\\MR"): 1,
        ("ModalitiesInStudy", "PT"): 0,
        ("SOPClassesInStudy", MRImageStorage): 1,
        ("SOPClassesInStudy", f"1.2.3\\{CTImageStorage}"): 2,
        ("SOPClassesInStudy", "1.2.3"): 0,
        ("RetrieveAETitle", node.aet): 2,
        ("RetrieveAETitle", "OTHER"): 0,
        ("InstanceAvailability", "ONLINE"): 2,
        ("InstanceAvailability", "NEARLINE"): 0,
        ("NumberOfPatientRelatedStudies", "1"): 2,
        ("NumberOfPatientRelatedStudies", "7"): 0,
        ("NumberOfPatientRelatedSeries", "2"): 1,
        ("NumberOfPatientRelatedInstances", "3"): 1,
        ("NumberOfStudyRelatedSeries", "2"): 1,
        ("NumberOfStudyRelatedInstances", "1"): 1,
    }
    identifiers = [
        _data_set(QueryRetrieveLevel="STUDY", StudyInstanceUID=both, **{keyword: value})
        for keyword, value in asked
    ]
    identifiers += [
        _data_set(
            QueryRetrieveLevel="SERIES",
            StudyInstanceUID=f"{_ROOT}.1",
            NumberOfSeriesRelatedInstances=number,
        )
        for number in ("2", "9")
    ]
    answered = dcmtk.find_each(node, tmp_path, *identifiers)
    assert [len(each.matches) for each in answered] == [*asked.values(), 1, 0]
    assert {each.final for each in answered} == {_SUCCESS}


#: Each breaks one rule of PS3.4 C.4.1.2.2.1, C.6, or of a VR.
_WRONG: Final[dict[str, list[dict[str, Any]]]] = {
    "-P": [
        {"QueryRetrieveLevel": "STUDY"},
        {"QueryRetrieveLevel": "STUDY", "PatientID": "P83*"},
        {"QueryRetrieveLevel": "STUDY", "PatientID": "P83A\\P83B"},
        {"QueryRetrieveLevel": "PATIENT", "StudyInstanceUID": None},
        {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": f"{_ROOT}.1"},
        {"QueryRetrieveLevel": "IMAGE", "PatientID": "P83A", "StudyInstanceUID": f"{_ROOT}.1"},
        {"PatientID": "P83A"},
        {"QueryRetrieveLevel": "FRAME", "PatientID": "P83A"},
    ],
    "-S": [
        {"QueryRetrieveLevel": "PATIENT", "PatientID": "P83A"},
        {"QueryRetrieveLevel": "SERIES"},
        {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": f"{_ROOT}.1\\{_ROOT}.2"},
        {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": f"{_ROOT}.1"},
        {"QueryRetrieveLevel": "STUDY", "SeriesInstanceUID": f"{_ROOT}.1.1"},
        {"QueryRetrieveLevel": "STUDY", "StudyDate": "yesterday"},
        {"QueryRetrieveLevel": "STUDY", "StudyTime": "25"},
    ],
    "-O": [
        {"QueryRetrieveLevel": "SERIES", "PatientID": "P83A", "StudyInstanceUID": f"{_ROOT}.1"},
        {"QueryRetrieveLevel": "IMAGE"},
        {"QueryRetrieveLevel": "STUDY"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("model", _MODELS)
def test_an_identifier_that_breaks_a_rule_is_refused_and_the_next_is_answered(
    node: Node, tmp_path: Path, model: str
) -> None:
    right = _data_set(
        QueryRetrieveLevel="STUDY", PatientID="P83A", StudyInstanceUID=f"{_ROOT}.1\\{_ROOT}.2"
    )
    identifiers = [_data_set(**keys) for keys in _WRONG[model]]
    *refused, answered = dcmtk.find_each(node, tmp_path, *identifiers, right, model=model)
    for identifier, answer in zip(identifiers, refused, strict=True):
        assert (answer.pending, answer.final) == ([], _REFUSED), identifier
    assert (len(answered.matches), answered.final) == (1, _SUCCESS)


def _as_printed(value: Any) -> Any:
    """Return a value as findscu writes it, the items of a sequence by tag."""
    if not isinstance(value, list):
        return str(value)
    return [
        {
            _name(element.tag): _as_printed(
                list(element.value) if element.VR == "SQ" else element.value
            )
            for element in item
        }
        for item in value
    ]


def _name(tag: int) -> str:
    return f"{tag >> 16:04x},{tag & 0xFFFF:04x}"
