"""Studies as a clinic has them, as many as wanted, straight as items of the index."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

from lenticular.archive import InstanceKey
from lenticular.attributes import Level
from lenticular.index_items import (
    Copy,
    Elements,
    Item,
    Series,
    month_item,
    series_registers,
    study_items,
    study_of,
    study_registers,
)

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
_FAMILY_NAMES: Final = (
    "Adler", "Brandt", "Cohen", "Dupont", "Eriksson", "Fischer", "Garcia", "Hansen", "Ivanova",
    "Jansen", "Kowalski", "Larsson", "Müller", "Novak", "O'Brien", "Petersen", "Quist", "Rossi",
    "Schmidt", "Tanaka", "Ueda", "Vogel", "Weber", "Xu", "Yilmaz", "Zimmermann",
)  # fmt: skip
_GIVEN_NAMES: Final = ("Anna", "Boris", "Chen", "Dora", "Emil", "Frida", "Georg", "Hana")
_MODALITIES: Final = ("CT", "MR", "CR", "US", "MG")
_FIRST_DAY: Final = date(2016, 1, 4)


def study_uid(number: int) -> str:
    """Return the Study Instance UID of a study."""
    return f"1.2.826.0.1.3680043.10.1.{number}"


def copies(  # noqa: PLR0913 - what tells one study from another
    number: int, *, patient: int, day: date, name: str, instances: int = 1, accession: str = ""
) -> list[Copy]:
    """Make the instances of one study, in one series."""
    uid = study_uid(number)
    return [
        Copy(
            InstanceKey(uid, f"{uid}.1", f"{uid}.1.{each}", f"{number:060}{each:04}"),
            size=525_000,
            received=f"{day.isoformat()}T12:00:00.{each:06}Z",
            sop_class_uid=CT,
            transfer_syntax_uid=EXPLICIT,
            attributes={
                Level.PATIENT: {
                    "00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]},
                    "00100020": {"vr": "LO", "Value": [f"PID{patient:07}"]},
                    "00100030": {"vr": "DA", "Value": [f"19{patient % 90 + 10}0101"]},
                    "00100040": {"vr": "CS", "Value": ["F" if patient % 2 else "M"]},
                },
                Level.STUDY: {
                    "00080020": {"vr": "DA", "Value": [f"{day:%Y%m%d}"]},
                    "00080030": {"vr": "TM", "Value": [f"{number % 24:02}{number % 60:02}00"]},
                    "00080050": {"vr": "SH", "Value": [accession or f"ACC{number:08}"]},
                    "00081030": {"vr": "LO", "Value": ["Thorax nativ"]},
                    "00200010": {"vr": "SH", "Value": [str(number)]},
                },
                Level.SERIES: {
                    "00080060": {"vr": "CS", "Value": [_MODALITIES[number % 5]]},
                    "00200011": {"vr": "IS", "Value": ["1"]},
                },
                Level.INSTANCE: _instance(uid, each),
            },
        )
        for each in range(instances)
    ]


def _instance(uid: str, number: int) -> Elements:
    return {
        "00080018": {"vr": "UI", "Value": [f"{uid}.1.{number}"]},
        "00200013": {"vr": "IS", "Value": [str(number + 1)]},
    }


def items(studies: int, *, first: int = 0, below: bool = True) -> Iterator[Item]:
    """Yield the items of that many studies, and of the months they are in.

    With `below`, those of a series and an instance of each too.

    Twenty a day, five of a patient, spread over names: what grows is the time the archive covers,
    not what happens in a day.
    """
    months = set()
    for number in range(first, first + studies):
        patient = number // 5
        # Five studies of a patient lie months apart, as those of one who comes again.
        day = _FIRST_DAY + timedelta(days=number // 20)
        family = _FAMILY_NAMES[patient % len(_FAMILY_NAMES)]
        given = _GIVEN_NAMES[patient // len(_FAMILY_NAMES) % len(_GIVEN_NAMES)]
        name = f"{family}{patient // 208:05}^{given}"
        if (month := f"{day:%Y-%m}") not in months:
            months.add(month)
            yield month_item(month)
        [copy] = copies(number, patient=patient, day=day, name=name)
        if below:
            yield from study_items([copy], newest=True)
            continue
        uid = copy.key.study_instance_uid
        series = Series(uid, f"{uid}.1", series_registers(copy), frozenset({CT}), 1)
        yield study_of(uid, study_registers(copy), [series]).item()
