"""What the archive holds, counted from the index: studies, instances and bytes.

One scan of the table, whatever is asked; what it reads of an item is a few attributes of it, and
what it keeps is a line for each series and sender.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .dicom_json import first_text
from .index import Index
from .index_items import Item, converted, elements_of
from .index_keys import STUDY_SORT_KEY, series_of_instance, series_uid_of, study_uid_of

#: By what holdings are counted apart.
DIMENSIONS: Final = ("modality", "month", "node")
_MODALITY: Final = "00080060"
_UNKNOWN: Final = "unknown"
_ATTRIBUTES: Final = (
    *("pk", "sk", "object_key", "size", "forms", "retired", "calling_ae_title"),
    *("attributes", "study_month"),
)


@dataclass(slots=True)
class Holding:
    """What is held of one kind. Bytes: as received; in the bucket now; of what has a form.

    Attributes:
        with_form_bytes: received bytes of the instances that have a form
        form_bytes: bytes of these forms
    """

    studies: set[str] = field(default_factory=set)
    instances: int = 0
    received_bytes: int = 0
    stored_bytes: int = 0
    with_form_bytes: int = 0
    form_bytes: int = 0

    @property
    def gained(self) -> float | None:
        """The part of their bytes that instances with a form save by it, None when none has one."""
        return 1 - self.form_bytes / self.with_form_bytes if self.with_form_bytes else None

    def add(self, other: "Holding") -> None:
        """Take in what another one counts."""
        self.studies |= other.studies
        self.instances += other.instances
        self.received_bytes += other.received_bytes
        self.stored_bytes += other.stored_bytes
        self.with_form_bytes += other.with_form_bytes
        self.form_bytes += other.form_bytes


def holdings(index: Index, by: Sequence[str]) -> dict[tuple[str, ...], Holding]:
    """Count what the index shows by some of `DIMENSIONS`, in order."""
    of_series: dict[tuple[str, str, str], Holding] = defaultdict(Holding)
    modalities: dict[tuple[str, str], str] = {}
    months: dict[str, str] = {}
    for item in index.everything(_ATTRIBUTES):
        study = study_uid_of(item)
        if not study:
            # Whatever its sort key looks like: an AE title, too, may be STUDY.
            continue
        if item["sk"] == STUDY_SORT_KEY:
            months[study] = str(item["study_month"])
        elif series := series_uid_of(item):
            modalities[study, series] = first_text(elements_of(item), _MODALITY) or _UNKNOWN
        elif of := series_of_instance(item):
            _count(of_series[*of, str(item.get("calling_ae_title", _UNKNOWN))], study, item)
    counted: dict[tuple[str, ...], Holding] = defaultdict(Holding)
    for (study, series, node), holding in of_series.items():
        kinds = {
            "modality": modalities.get((study, series), _UNKNOWN),
            "month": months.get(study, _UNKNOWN),
            "node": node,
        }
        counted[tuple(kinds[each] for each in by)].add(holding)
    return dict(sorted(counted.items()))


def _count(holding: Holding, study: str, item: Item) -> None:
    became = converted(item)
    size = int(str(item["size"]))
    forms = sum(form.size for form in became.forms)
    holding.studies.add(study)
    holding.instances += 1
    holding.received_bytes += size
    holding.stored_bytes += forms + (0 if became.retired else size)
    if became.forms:
        holding.with_form_bytes += size
        holding.form_bytes += min(form.size for form in became.forms)
