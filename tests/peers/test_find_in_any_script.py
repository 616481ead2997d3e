"""Names in every character set of the standard, stored and asked for by programs not ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom import charset, dcmread
from pydicom.dataset import Dataset

from tests.cloud.deadline import eventually
from tests.peers import dcmjs_dimse, dcmtk, orthanc
from tests.peers.conftest import Clinic
from tests.peers.ct_files import ct_file
from tests.peers.node_process import Node

pytestmark = pytest.mark.peers

_PATIENT_NAME: Final = "0010,0010"
#: Specific Character Set (PS3.3 C.12.1.1.2), a name it carries, and how a person may ask for it.
NAMES: Final = (
    ("ISO_IR 100", "Buc^Jérôme", "BUC^JER*"),
    ("ISO_IR 101", "Dvořák^Antonín", "dvorak*"),
    ("ISO_IR 109", "Ħobż^Ġorġ", "hobz*"),
    ("ISO_IR 110", "Bērziņš^Jānis", "berzins*"),
    ("ISO_IR 144", "Люкceмбypг^Иван", "люк*"),
    ("ISO_IR 127", "قباني^لنزار", "قباني*"),
    ("ISO_IR 126", "Διονυσιος^Α", "διον*"),
    ("ISO_IR 138", "שרון^דבורה", "שרון*"),
    ("ISO_IR 148", "Çavuşoğlu^Işıl", "cavusoglu*"),
    ("ISO_IR 166", "นามสกุล^ชื่อ", "นาม*"),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", "ﾔﾏﾀﾞ*"),
    ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう", "山田*"),
    ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동", "홍^*"),
    ("\\ISO 2022 IR 58", "Zhang^XiaoDong=张^小东", "张*"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东", "王^小东"),
    ("GB18030", "Wang^XiaoWen=王^小雯", "*小雯"),
    ("GBK", "Li^Na=李^娜", "李?娜"),
    ("ISO_IR 203", "Œuvrard^Žofia", "oeuvrard*"),
    # With code extensions: each set behind its escape sequence, and two of them in one name.
    ("\\ISO 2022 IR 100", "Lefèvre^Zoé", "lefevre*"),
    ("\\ISO 2022 IR 101", "Nowák^Łucja", "*ucja"),
    ("\\ISO 2022 IR 109", "Ċaruana^Żeża", "caruana^z*"),
    ("\\ISO 2022 IR 110", "Kļaviņa^Ēriks", "klavina*"),
    ("\\ISO 2022 IR 144", "Петров^Пётр", "*пётр"),
    ("\\ISO 2022 IR 127", "درويش^سمير", "درويش*"),
    ("\\ISO 2022 IR 126", "Παππας^Νικος", "παππας^*"),
    ("\\ISO 2022 IR 138", "כהן^שרה", "כהן*"),
    ("\\ISO 2022 IR 148", "Gündoğan^Şule", "gundogan^sule"),
    ("\\ISO 2022 IR 166", "สมชาย^ใจดี", "สมชาย*"),
    ("\\ISO 2022 IR 203", "Šœur^Žaneta", "*oeur^?aneta"),
    ("ISO 2022 IR 13\\ISO 2022 IR 87", "ｽｽﾞｷ^ﾊﾅｺ=鈴木^花子=すずき^はなこ", "*木^花*"),
    ("\\ISO 2022 IR 87\\ISO 2022 IR 159", "Uda^Jiro=丂田^丄郎", "丂*"),
)


@pytest.fixture(scope="module", autouse=True)
def latin_9() -> Iterator[None]:
    """Tell pydicom 3.0 of the set that the standard got last; the codec is Python's own."""
    codec, escape = "iso8859_15", b"\x1b-b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(charset.python_encoding, "ISO_IR 203", codec)
        patch.setitem(charset.python_encoding, "ISO 2022 IR 203", codec)
        patch.setitem(charset.CODES_TO_ENCODINGS, escape, codec)
        patch.setitem(charset.ENCODINGS_TO_CODES, codec, escape)
        yield


@pytest.fixture(scope="module")
def node(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Store a study for each name by storescu, and wait until all can be found."""
    folder = tmp_path_factory.mktemp("names")
    files = [
        ct_file(
            folder, f"1.2.826.0.1.81.{number}", f"1.2.826.0.1.81.{number}.1",
            f"1.2.826.0.1.81.{number}.1.1", SpecificCharacterSet=term, PatientName=name,
            PatientID="P81", AccessionNumber=f"A81{number:02}",
        )
        for number, (term, name, _) in enumerate(NAMES)
    ]  # fmt: skip
    assert dcmtk.store(clinic.node, *files) == [0] * len(files)
    eventually(
        lambda: dcmtk.find(clinic.node, "STUDY", "PatientID=P81"),
        until=lambda answers: len(answers) == len(files),
    )
    return clinic.node


def _asked(node: Node, folder: Path, **keys: str) -> tuple[str, str]:
    """Ask by findscu; return character set and name of the one answer, as pydicom reads it."""
    identifier = Dataset()
    for keyword, value in ({"QueryRetrieveLevel": "STUDY", "PatientID": "P81"} | keys).items():
        setattr(identifier, keyword, value)
    [file] = dcmtk.find_as_sent(node, folder, identifier)
    answer = dcmread(file, force=True)
    said = answer.SpecificCharacterSet
    # pydicom 3.0 leaves the escape of GB 2312 in the text.
    name = str(answer.PatientName).replace("\x1b$)A", "")
    return said if isinstance(said, str) else "\\".join(said), name


@pytest.mark.parametrize(("term", "name"), [each[:2] for each in NAMES])
def test_an_answer_is_in_the_character_set_that_was_asked_in(
    node: Node, tmp_path: Path, term: str, name: str
) -> None:
    keys = {"SpecificCharacterSet": term, "PatientName": name}
    assert _asked(node, tmp_path, **keys) == (term, name)


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        (term, number)
        for term in ("ISO_IR 100", "ISO_IR 13", "\\ISO 2022 IR 101")
        for number, (other, *_) in enumerate(NAMES)
        if other in {"ISO_IR 144", "\\ISO 2022 IR 149", "ISO_IR 138"}
    ],
)
def test_what_the_set_that_was_asked_in_does_not_carry_is_answered_in_utf_8(
    node: Node, tmp_path: Path, asked: str, number: int
) -> None:
    keys = {"SpecificCharacterSet": asked, "AccessionNumber": f"A81{number:02}", "PatientName": ""}
    assert _asked(node, tmp_path, **keys) == ("ISO_IR 192", NAMES[number][1])


@pytest.mark.parametrize(("term", "name", "pattern"), NAMES)
def test_findscu_finds_a_name_by_how_a_person_types_it(
    node: Node, term: str, name: str, pattern: str
) -> None:
    del term
    [answer] = dcmtk.find(
        node, "STUDY", "SpecificCharacterSet=ISO_IR 192", f"PatientName={pattern}", "PatientID=P81"
    )
    assert answer[_PATIENT_NAME].encode("latin-1").decode() == name


def test_dcmjs_dimse_finds_names_in_any_script(node: Node) -> None:
    asked: list[dict[str, Any]] = [
        {
            "type": "find",
            "level": "STUDY",
            "keys": {
                "SpecificCharacterSet": "ISO_IR 192",
                "PatientName": pattern,
                "PatientID": "P81",
                "AccessionNumber": "",
            },
        }
        for _, _, pattern in NAMES
    ]
    events = dcmjs_dimse.run(node, *asked)
    for number, (_, name, _) in enumerate(NAMES):
        match, final = dcmjs_dimse.responses(events, number)
        assert final["status"] == 0
        assert match["data"]["AccessionNumber"] == f"A81{number:02}"
        [person] = match["data"]["PatientName"]
        groups = (person.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic"))
        assert "=".join(groups).rstrip("=") == name


@pytest.fixture
def peer(node: Node, tmp_path: Path) -> Iterator[orthanc.Orthanc]:
    """Run an Orthanc that asks in UTF-8."""
    with orthanc.running_orthanc(tmp_path / "orthanc", node, DefaultEncoding="Utf8") as running:
        yield running


def test_orthanc_finds_names_in_any_script(peer: orthanc.Orthanc) -> None:
    for number, (_, name, pattern) in enumerate(NAMES):
        query = peer.post(
            f"/modalities/{orthanc.NODE}/query",
            {
                "Level": "Study",
                "Query": {"PatientName": pattern, "PatientID": "P81", "AccessionNumber": ""},
            },
        )
        [answer] = peer.get(f"/queries/{query['ID']}/answers")
        found = peer.get(f"/queries/{query['ID']}/answers/{answer}/content?simplify")
        assert found["AccessionNumber"] == f"A81{number:02}"
        assert found["PatientName"] == name
