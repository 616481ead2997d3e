"""From an original to a form of it that counts.

    read header ─▶ policy ─▶ write form ─▶ restore, compare SHA-256 ─▶ put ─▶ index ─▶ retire
                      │          │                   │
                      └──────────┴───────────────────┴─▶ reason, put as an empty object ─▶ index

A form in the bucket has been proven: it is put only after the original was restored from it. So a
message that comes again finds the form there and goes on behind it. Retiring comes last, and before
it the original is restored once more from what S3 gives back. A crash between any two steps leaves
the message in the queue, and an object too many at worst. All of it is done under a lease, for a
form that is put behind the deletion of its original would stay.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Final

from .archive import (
    CALLED_AE_TITLE,
    CALLING_AE_TITLE,
    FORM_SHA256,
    INSTANCES,
    ORIGINAL_ETAG,
    ORIGINAL_SIZE,
    ORIGINAL_TRANSFER_SYNTAX,
    RECEIVED,
    TRANSCODED,
    Archive,
    Form,
    FormKey,
    InstanceKey,
    LeftAloneKey,
    StoredObject,
    transcoded_prefix,
)
from .byte_ranges import ByteRanges, InMemory, OnDisk, ReadAhead
from .errors import CannotUnderstand, InstanceMissing
from .forms import FormStore, file_sha256
from .image_files import read_image_file, read_meta, transfer_syntax_of
from .image_pixel import MODALITY, NotDescribed, text_of
from .index import Index
from .index_items import Converted
from .splice import MOST_HEADER_BYTES, LeftAlone, Reason, restored_sha256, write_form
from .transcoding_policy import Facts, TranscodingPolicy
from .transfer_syntaxes import BY_UID

#: An original up to this size is read in one request, and a form of that size stays in memory.
_IN_MEMORY_BYTES: Final = 16 << 20
_HEAD_BYTES: Final = 256 << 10
_MEDIA_STORAGE_SOP_CLASS_UID: Final = 0x00020002
_KEPT_METADATA: Final = (RECEIVED, CALLING_AE_TITLE, CALLED_AE_TITLE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an original; sizes in bytes, `form_bytes` 0 where there is no form."""

    transfer_syntax_uid: str | None
    reason: Reason | None
    original_bytes: int
    form_bytes: int = 0
    retired: bool = False


def originals_without_form(archive: Archive, study: str | None = None) -> Iterator[str]:
    """Yield the keys of originals of which the bucket has neither a form nor a reason why not.

    Of all studies, or of one.
    """
    of_study = "" if study is None else f"{study}/"
    forms = archive.keys(f"{TRANSCODED}{of_study}")
    done = ""
    for key in archive.keys(f"{INSTANCES}{of_study}"):
        original = InstanceKey.parse(key)
        if original is None:
            continue
        # Both listings are in the order of the same parts, so one look at each is enough.
        prefix = transcoded_prefix(original)
        while done < prefix and (following := next(forms, None)) is not None:
            done = following
        if not done.startswith(prefix):
            yield key


class Unproven(Exception):
    """A form in the bucket does not restore to its original."""


class Transcoder:
    """Makes forms. Safe to share between threads."""

    def __init__(
        self,
        archive: Archive,
        forms: FormStore,
        index: Index,
        policy: TranscodingPolicy,
        *,
        retire_originals: bool = False,
    ) -> None:
        """Convert what `policy` says; retire originals only if asked to."""
        self._archive = archive
        self._forms = forms
        self._index = index
        self._policy = policy
        self._retire_originals = retire_originals

    def transcode(self, key: str) -> Outcome | None:
        """Make an original's form count, or say why there is none; None when it is gone.

        Doing it again, or in several places at once, changes nothing.

        Raises:
            StoreUnavailable: some of it was not done; doing it again is safe.
        """
        original = InstanceKey.parse(key)
        if original is None:
            return None
        with self._index.leased([original.study_instance_uid]):
            return self._transcode(key, original)

    def _transcode(self, key: str, original: InstanceKey) -> Outcome | None:
        try:
            stored = self._archive.head(key, _HEAD_BYTES)
        except InstanceMissing:
            return None
        file = self._open(key, stored)
        try:
            form = self._form(original, stored, file)
        except LeftAlone as left_alone:
            return self._left_alone(original, stored, left_alone.reason)
        # Also that of a content that is not shown, as in a rebuild: `verify` would miss it.
        known = self._index.record_converted(original, Converted((form,)), shown=False)
        retired = self._retire_originals and known and self._retire(original, form)
        return Outcome(
            form.transfer_syntax_uid, None, stored.size, form.size, retired=bool(retired)
        )

    def _form(self, original: InstanceKey, stored: StoredObject, file: ByteRanges) -> Form:
        """Return the proven form of an original, made now or before."""
        target_uid = self._policy.target(_facts(file))
        if target_uid is None:
            raise LeftAlone(Reason.POLICY)
        form_key = str(FormKey(original, target_uid))
        try:
            present = self._archive.form(form_key)
        except InstanceMissing:
            replace, received = False, stored.received
        else:
            if self._restores(present, original):
                return present
            # Whatever became of its bytes, it knows when the original first came.
            replace, received = True, min(stored.received, present.received or stored.received)
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as out:
            write_form(file, BY_UID[target_uid], out)
            size = out.tell()
            _prove(out, original, file)
            digest = file_sha256(out)
            metadata = {
                FORM_SHA256: digest,
                ORIGINAL_ETAG: stored.etag,
                ORIGINAL_SIZE: str(stored.size),
                ORIGINAL_TRANSFER_SYNTAX: _transfer_syntax_uid(file),
                **_provenance(stored),
                RECEIVED: received,
            }
            # Another one that was first has the same pixels, but is known only by its own words.
            kept = self._forms.keep(form_key, out, metadata, replace=replace)
        return Form(form_key, size, digest) if kept else self._archive.form(form_key)

    def _left_alone(self, original: InstanceKey, stored: StoredObject, reason: Reason) -> Outcome:
        self._forms.leave_alone(str(LeftAloneKey(original, reason.value)))
        self._index.record_converted(original, Converted(left_alone=reason.value))
        return Outcome(None, reason, stored.size)

    def _retire(self, original: InstanceKey, form: Form) -> bool:
        """Retire an original whose item names its form, unless what S3 holds is not that."""
        if not self._restores(form, original):
            raise Unproven(f"{form.object_key} does not restore to its original")
        # The item says so first: from here on readers go to the form by themselves.
        if not self._index.record_converted(original, Converted((form,), retired=True)):
            return False
        self._forms.retire(str(original))
        return True

    def _restores(self, form: Form, original: InstanceKey) -> bool:
        """Read a form back from the bucket and restore the original from it."""
        try:
            return restored_sha256(self._ranges(form.object_key, form.size)) == original.sha256
        except CannotUnderstand:
            return False

    def _open(self, key: str, stored: StoredObject) -> ByteRanges:
        if len(stored.head) == stored.size:
            return InMemory(stored.head)
        return self._ranges(key, stored.size)

    def _ranges(self, key: str, size: int) -> ByteRanges:
        if size <= _IN_MEMORY_BYTES:
            return InMemory(self._archive.range(key, 0, size) if size else b"")
        return ReadAhead(lambda start, length: self._archive.range(key, start, length), size)


def _prove(form: IO[bytes], original: InstanceKey, file: ByteRanges) -> None:
    """Restore the original from a form just written, or raise `LeftAlone`."""
    try:
        restored = restored_sha256(OnDisk(form))
    except CannotUnderstand:
        restored = ""
    if restored != original.sha256:
        digest = hashlib.sha256()
        for start in range(0, file.size, _IN_MEMORY_BYTES):
            digest.update(file.read(start, _IN_MEMORY_BYTES))
        is_itself = digest.hexdigest() == original.sha256
        raise LeftAlone(Reason.NOT_REVERSIBLE if is_itself else Reason.NOT_ITS_CONTENT)


def _facts(file: ByteRanges) -> Facts:
    """Read what rules ask for, from a file that may not even be one."""
    try:
        _, meta = read_meta(file)
        syntax_uid = transfer_syntax_of(meta).uid
    except CannotUnderstand as error:
        raise LeftAlone(Reason.MALFORMED) from error
    sop_class_uid = text_of(meta, _MEDIA_STORAGE_SOP_CLASS_UID)
    try:
        found = read_image_file(file, most_header_bytes=MOST_HEADER_BYTES)
    except CannotUnderstand:
        # Deflated, or not to be followed: writing a form says which.
        return Facts("", sop_class_uid, syntax_uid, 0)
    try:
        bits = found.image.bits_allocated
    except NotDescribed:
        bits = 0
    return Facts(text_of(found.values, MODALITY), sop_class_uid, syntax_uid, bits)


def _transfer_syntax_uid(file: ByteRanges) -> str:
    return transfer_syntax_of(read_meta(file)[1]).uid


def _provenance(stored: StoredObject) -> Mapping[str, str]:
    """Return the metadata by which a rebuild gives the original its place without the original."""
    kept = {name: stored.metadata[name] for name in _KEPT_METADATA if name in stored.metadata}
    return {RECEIVED: stored.received, **kept}
