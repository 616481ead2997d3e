"""A day's instances of a clinic: real files of many kinds, each under UIDs of its own."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from pydicom.uid import generate_uid

from lenticular.element_headers import ElementsError
from lenticular.elements import encode_element, walk
from lenticular.part10 import file_head
from lenticular.sop_classes import STORAGE
from lenticular.transfer_syntaxes import BY_UID
from tests.peers.corpus import STORESCU_OPTIONS, CorpusFile, corpus_files, data_set_of

_SOP_INSTANCE_UID: Final = 0x00080018
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_UIDS: Final = (_SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID)
#: Larger ones make the day longer and nothing else.
_LARGEST_BYTES: Final = 150_000


@dataclass(frozen=True)
class DayInstance:
    """A file to send, which is also, byte for byte, the object that must be kept of it."""

    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def data_set(self) -> bytes:
        """What of it goes over the wire."""
        head = file_head(self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid)
        return self.path.read_bytes()[len(head) :]

    @property
    def key(self) -> str:
        """The object that must keep it."""
        return self._key(self.sha256)

    @property
    def sent_on(self) -> tuple[str, str]:
        """The object that keeps it where we send it, and its SHA-256: none goes odd, PS3.8 E.1."""
        padding = bytes(len(self.data_set) % 2)
        sha256 = hashlib.sha256(self.path.read_bytes() + padding).hexdigest()
        return self._key(sha256), sha256

    def _key(self, sha256: str) -> str:
        return (
            f"instances/{self.study_instance_uid}/{self.series_instance_uid}/"
            f"{self.sop_instance_uid}/{sha256}.dcm"
        )


@dataclass(frozen=True)
class _Model:
    """A real data set, cut where its UIDs are."""

    file: CorpusFile
    pieces: tuple[bytes, ...]
    tags: tuple[int, ...]

    def with_uids(self, uids: dict[int, str]) -> bytes:
        """Return the data set with other UIDs and everything else bit for bit."""
        syntax = BY_UID[self.file.transfer_syntax_uid]
        written = [self.pieces[0]]
        for tag, piece in zip(self.tags, self.pieces[1:], strict=True):
            element = encode_element(
                tag,
                "UI",
                uids[tag].encode(),
                explicit=syntax.explicit,
                little_endian=syntax.little_endian,
            )
            written += [element, piece]
        return b"".join(written)


def studies(folder: Path, count: int, of: int) -> list[list[DayInstance]]:
    """Write the instances of `count` studies, `of` in all, mixed from the corpus; 40 a series."""
    folder.mkdir(exist_ok=True)
    models = list(_models())
    kinds = {(m.file.sop_class_uid, m.file.transfer_syntax_uid) for m in models}
    # The corpus would be worth little if it shrank to a few kinds unnoticed.
    assert len(kinds) >= 25, kinds
    made: list[list[DayInstance]] = []
    endless = cycle(models)
    for number in range(count):
        size = of // count + (number < of % count)
        study_uid = generate_uid(None)
        made.append(
            [
                _written(folder, model, study_uid, series_uid)
                for series_uid, some in _series(list(islice(endless, size)))
                for model in some
            ]
        )
    return made


def _series(models: Sequence[_Model]) -> Iterator[tuple[str, Sequence[_Model]]]:
    for start in range(0, len(models), 40):
        yield generate_uid(None), models[start : start + 40]


def _written(folder: Path, model: _Model, study_uid: str, series_uid: str) -> DayInstance:
    uid = generate_uid(None)
    uids = {
        _SOP_INSTANCE_UID: uid,
        _STUDY_INSTANCE_UID: study_uid,
        _SERIES_INSTANCE_UID: series_uid,
    }
    sop_class_uid, syntax = model.file.sop_class_uid, model.file.transfer_syntax_uid
    path = folder / f"{uid}.dcm"
    path.write_bytes(file_head(sop_class_uid, uid, syntax) + model.with_uids(uids))
    return DayInstance(path, sop_class_uid, syntax, study_uid, series_uid, uid)


def _models() -> Iterator[_Model]:
    for file in corpus_files():
        syntax = BY_UID.get(file.transfer_syntax_uid)
        if (
            file.hostile
            or not file.dcmtk_reads
            or file.sop_class_uid not in STORAGE
            or file.transfer_syntax_uid not in STORESCU_OPTIONS
            or syntax is None
            or syntax.deflated
            or file.path.stat().st_size > _LARGEST_BYTES
        ):
            continue
        data = data_set_of(file.path)
        try:
            outline = list(walk(data, explicit=syntax.explicit, little_endian=syntax.little_endian))
        except ElementsError:
            continue
        if tuple(each.tag for each in outline if each.tag in _UIDS) != _UIDS:
            continue
        pieces, tags, start = [], [], 0
        for element, following in zip(outline, [*outline[1:], None], strict=True):
            if element.tag in _UIDS:
                pieces.append(data[start : element.offset])
                tags.append(element.tag)
                start = len(data) if following is None else following.offset
        yield _Model(file, (*pieces, data[start:]), tuple(tags))
