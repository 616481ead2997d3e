"""The archive bucket: how its keys are made, and reading from it.

An instance is one object. Its key is made of its study, series and SOP Instance UID and the
SHA-256 of the file, so the same bytes always have the same key, different bytes under one SOP
Instance UID never meet, and nothing is ever overwritten:

    instances/{study}/{series}/{sop}/{sha256}.dcm      can be placed in the index
    quarantine/{sop | unidentified}/{sha256}.dcm       cannot, and is kept all the same

A performed procedure step is a run of objects, one for each request that changed it, which are
created and never replaced as well: the highest number is the state it is in.

    procedures/{sop}/{number}.json                     a performed procedure step (PS3.4 F)

Of an instance there may be forms, files with its pixels in another transfer syntax from which the
original can be restored, or the reason why there is none:

    transcoded/{study}/{series}/{sop}/{sha256 of the original}/{transfer syntax}.dcm
    transcoded/{study}/{series}/{sop}/{sha256 of the original}/{reason}.left-alone      empty

The gateway writes instances and procedures (`gateway.custody`), `forms` writes forms; here objects
are named, listed and read. The documents of storage commitment are also written here:

    commitments/requested/{requester}/{transaction}.json   what a peer asked to be committed to
    commitments/checked/{requester}/{transaction}.json     what it is told

And so are the records of what an operator deleted (`deletion`):

    deletions/{study}/{moment}.json         what, why, by whom; beside it, how far that is
"""

import hashlib
import heapq
import itertools
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import quote, unquote, urlencode

from botocore.exceptions import BotoCoreError, ClientError

from .aws import error_code
from .errors import InstanceMissing, StoreUnavailable
from .identifiers import ae_title_of_key_part, aet_key_part, is_uid
from .moments import moment

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

INSTANCES: Final = "instances/"
QUARANTINE: Final = "quarantine/"
COMMITMENTS_REQUESTED: Final = "commitments/requested/"
COMMITMENTS_CHECKED: Final = "commitments/checked/"
PROCEDURES: Final = "procedures/"
TRANSCODED: Final = "transcoded/"
DELETIONS: Final = "deletions/"
#: Where keys go on with a Study Instance UID. Where originals are retired, a study may have nothing
#: but forms.
OF_STUDIES: Final = (INSTANCES, TRANSCODED)
_SUFFIX: Final = ".dcm"
_LEFT_ALONE_SUFFIX: Final = ".left-alone"
_JSON_SUFFIX: Final = ".json"
_SHA256_HEX_CHARACTERS: Final = 64

#: Names of the user metadata the gateway writes with every object.
RECEIVED: Final = "received"
CALLING_AE_TITLE: Final = "calling-aet"
CALLED_AE_TITLE: Final = "called-aet"
#: And what is written beside them with every form, of itself and of its original.
FORM_SHA256: Final = "sha256"
ORIGINAL_ETAG: Final = "original-etag"
ORIGINAL_SIZE: Final = "original-size"
ORIGINAL_TRANSFER_SYNTAX: Final = "original-transfer-syntax"

_INVALID_RANGE: Final = "InvalidRange"
_PRECONDITION_FAILED: Final = frozenset({"PreconditionFailed", "412"})
_READ_BYTES: Final = 1 << 20
_MISSING_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound"})


@dataclass(frozen=True, slots=True)
class InstanceKey:
    """The parts of an object key under `instances/`."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sha256: str

    def __str__(self) -> str:
        """Write the object key."""
        return (
            f"{INSTANCES}{self.study_instance_uid}/{self.series_instance_uid}/"
            f"{self.sop_instance_uid}/{self.sha256}{_SUFFIX}"
        )

    @classmethod
    def parse(cls, key: str) -> "InstanceKey | None":
        """Read an object key; None when it is not one of an instance that can be placed."""
        if not (key.startswith(INSTANCES) and key.endswith(_SUFFIX)):
            return None
        return cls.of_parts(key.removeprefix(INSTANCES).removesuffix(_SUFFIX).split("/"))

    @classmethod
    def of_parts(cls, parts: Sequence[str]) -> "InstanceKey | None":
        """Read the parts of an object key; None when they are not those of an instance."""
        if len(parts) != 4:  # noqa: PLR2004 - three UIDs and a digest
            return None
        *uids, sha256 = parts
        if not (all(map(is_uid, uids)) and len(sha256) == _SHA256_HEX_CHARACTERS):
            return None
        return cls(uids[0], uids[1], uids[2], sha256)


@dataclass(frozen=True, slots=True)
class TransactionKey:
    """Which storage commitment: a Transaction UID of one requester, who alone can use it up."""

    requester: str
    transaction_uid: str

    def __str__(self) -> str:
        """Write what names it in the bucket and in the table."""
        return f"{aet_key_part(self.requester)}/{self.transaction_uid}"

    @property
    def requested(self) -> str:
        """The key of the object that holds the request."""
        return f"{COMMITMENTS_REQUESTED}{self}{_JSON_SUFFIX}"

    @property
    def checked(self) -> str:
        """The key of the object that holds what the check found."""
        return f"{COMMITMENTS_CHECKED}{self}{_JSON_SUFFIX}"

    @classmethod
    def parse(cls, key: str) -> "TransactionKey | None":
        """Read the key of a request's object; None when it is not one."""
        named = key.removeprefix(COMMITMENTS_REQUESTED).removesuffix(_JSON_SUFFIX)
        if not (key.startswith(COMMITMENTS_REQUESTED) and key.endswith(_JSON_SUFFIX)):
            return None
        part, _, transaction_uid = named.partition("/")
        requester = ae_title_of_key_part(part)
        if requester is None or not is_uid(transaction_uid):
            return None
        return cls(requester, transaction_uid)


@dataclass(frozen=True, slots=True)
class ProcedureKey:
    """The parts of an object key under `procedures/`; numbers begin with 1."""

    sop_instance_uid: str
    number: int

    #: Most requests that may change one step. Keys in order of text are then in order of number.
    MOST: ClassVar[int] = 99_999

    def __str__(self) -> str:
        """Write the object key."""
        return f"{procedure_prefix(self.sop_instance_uid)}{self.number:05}{_JSON_SUFFIX}"

    @classmethod
    def parse(cls, key: str) -> "ProcedureKey | None":
        """Read an object key; None when it is not one of a performed procedure step."""
        uid, _, number = key.removeprefix(PROCEDURES).removesuffix(_JSON_SUFFIX).partition("/")
        if not (is_uid(uid) and number.isdecimal() and number.isascii()):
            return None
        parsed = cls(uid, int(number))
        return parsed if str(parsed) == key else None


@dataclass(frozen=True, slots=True)
class DeletionKey:
    """The parts of an object key under `deletions/`."""

    study_instance_uid: str
    moment: str

    #: What its other objects say of a deletion.
    SAID: ClassVar[tuple[str, ...]] = ("completed", "restoring", "restored")

    def __str__(self) -> str:
        """Write the key of the record."""
        return f"{self._stem}{_JSON_SUFFIX}"

    @classmethod
    def begun(cls, study_instance_uid: str, when: datetime) -> "DeletionKey":
        """Name a deletion that begins at a moment."""
        return cls(study_instance_uid, when.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ"))

    @property
    def _stem(self) -> str:
        return f"{deletions_prefix(self.study_instance_uid)}{self.moment}"

    def _saying(self, what: str) -> str:
        return f"{self._stem}.{what}{_JSON_SUFFIX}"

    @property
    def completed(self) -> str:
        """The key of the object that says that all is deleted."""
        return self._saying("completed")

    @property
    def restoring(self) -> str:
        """The key of the object that says that it is being brought back."""
        return self._saying("restoring")

    @property
    def restored(self) -> str:
        """The key of the object that says that all is back."""
        return self._saying("restored")

    @classmethod
    def parse(cls, key: str) -> "tuple[DeletionKey, str] | None":
        """Read a key: which deletion, and which of `SAID` it says; the record says none."""
        study, _, rest = key.removeprefix(DELETIONS).removesuffix(_JSON_SUFFIX).partition("/")
        moment, said = rest, ""
        for each in cls.SAID:
            if rest.endswith(f".{each}"):
                moment, said = rest.removesuffix(f".{each}"), each
        if not is_uid(study) or not moment:
            return None
        parsed = cls(study, moment)
        return (parsed, said) if key == (parsed._saying(said) if said else str(parsed)) else None


def key_prefix(of_studies: str, *uids: str) -> str:
    """Return what keys under one of `OF_STUDIES` begin with, by UIDs from the study's on."""
    return f"{of_studies}{'/'.join(uids)}/"


def deletions_prefix(study_instance_uid: str) -> str:
    """Return what the keys of all deletions of a study begin with."""
    return f"{DELETIONS}{study_instance_uid}/"


def is_being_deleted(keys: Iterable[str]) -> bool:
    """Tell whether of some deletions, by the keys of all their objects, one is not done yet."""
    said: dict[DeletionKey, set[str]] = defaultdict(set)
    for key in keys:
        if parsed := DeletionKey.parse(key):
            said[parsed[0]].add(parsed[1])
    return any(each == {""} for each in said.values())


def procedure_prefix(sop_instance_uid: str) -> str:
    """Return what the keys of all states of a performed procedure step begin with."""
    return f"{PROCEDURES}{sop_instance_uid}/"


@dataclass(frozen=True, slots=True)
class FormKey:
    """The parts of an object key under `transcoded/` that names a form."""

    original: InstanceKey
    transfer_syntax_uid: str

    def __str__(self) -> str:
        """Write the object key."""
        return f"{transcoded_prefix(self.original)}{self.transfer_syntax_uid}{_SUFFIX}"

    @classmethod
    def parse(cls, key: str) -> "FormKey | None":
        """Read an object key; None when it is not one of a form."""
        found = _under_transcoded(key, _SUFFIX)
        return cls(*found) if found and is_uid(found[1]) else None


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """A file from which the original can be restored, with the pixels in another syntax.

    `received` is when the original was, where S3 was asked for it; the index does not keep it here.
    """

    object_key: str
    size: int
    sha256: str
    received: str = field(default="", compare=False)

    @property
    def transfer_syntax_uid(self) -> str:
        """The transfer syntax it is in."""
        key = FormKey.parse(self.object_key)
        return key.transfer_syntax_uid if key else ""

    def __str__(self) -> str:
        """Write it as a member of an item's set."""
        return f"{self.object_key} {self.size} {self.sha256}"

    @classmethod
    def parse(cls, member: str) -> "Form":
        """Read it from a member of an item's set."""
        object_key, size, sha256 = member.split(" ")
        return cls(object_key, int(size), sha256)


@dataclass(frozen=True, slots=True)
class LeftAloneKey:
    """The parts of an object key that says why an original has no form."""

    original: InstanceKey
    reason: str

    def __str__(self) -> str:
        """Write the object key."""
        return f"{transcoded_prefix(self.original)}{self.reason}{_LEFT_ALONE_SUFFIX}"

    @classmethod
    def parse(cls, key: str) -> "LeftAloneKey | None":
        """Read an object key; None when it does not say why there is no form."""
        found = _under_transcoded(key, _LEFT_ALONE_SUFFIX)
        return cls(*found) if found else None


def transcoded_prefix(original: InstanceKey) -> str:
    """Return what the keys of all forms of an original begin with."""
    return f"{TRANSCODED}{str(original).removeprefix(INSTANCES).removesuffix(_SUFFIX)}/"


def _under_transcoded(key: str, suffix: str) -> tuple[InstanceKey, str] | None:
    if not (key.startswith(TRANSCODED) and key.endswith(suffix)):
        return None
    *of_original, last = key.removeprefix(TRANSCODED).removesuffix(suffix).split("/")
    original = InstanceKey.of_parts(of_original)
    return (original, last) if original else None


def quarantine_key(sop_instance_uid: str | None, sha256: str) -> str:
    """Name an object that the index cannot place."""
    return f"{QUARANTINE}{sop_instance_uid or 'unidentified'}/{sha256}{_SUFFIX}"


def studies_of(keys: Iterable[str]) -> Iterator[str]:
    """Return the Study Instance UID in each key of an instance, or of what was made of one."""
    return (key.split("/", 2)[1] for key in keys if key.startswith((INSTANCES, TRANSCODED)))


def content_sha256(key: str) -> str:
    """Return the SHA-256 of the file that a key names, hexadecimal, in quarantine or not."""
    return key.rpartition("/")[2].removesuffix(_SUFFIX)


def provenance(calling_ae_title: str, called_ae_title: str) -> dict[str, str]:
    """Return the metadata of an object that arrives now: when (`moments`) and from whom.

    AE titles are percent-encoded: they become headers, in which two spaces are as good as one, and
    then the signature of the request is not.
    """
    return {
        RECEIVED: moment(datetime.now(UTC)),
        CALLING_AE_TITLE: quote(calling_ae_title, safe=""),
        CALLED_AE_TITLE: quote(called_ae_title, safe=""),
    }


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The first bytes of an object and what S3 says of the whole."""

    key: str
    size: int
    received: str
    calling_ae_title: str
    head: bytes
    metadata: Mapping[str, str]
    etag: str


@dataclass(frozen=True, slots=True)
class Listed:
    """What S3 lists of an object. The ETag changes with every content and every upload in parts."""

    key: str
    size: int
    etag: str
    modified: datetime


class Archive:
    """Reads the bucket. Safe to share between threads."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        """Read `bucket` through `client`."""
        self._client = client
        self.bucket = bucket

    def head(self, key: str, length: int) -> StoredObject:
        """Return the first `length` bytes of an object with its metadata.

        Raises:
            InstanceMissing: the bucket holds no such object.
            StoreUnavailable: S3 refused or could not be reached.
        """
        with _asking_for(key):
            try:
                answer = self._client.get_object(
                    Bucket=self.bucket, Key=key, Range=f"bytes=0-{length - 1}"
                )
            except ClientError as error:
                if error_code(error) != _INVALID_RANGE:
                    raise
                # An empty object has no first byte; it is read like any other.
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
            head = answer["Body"].read()
        # "bytes 0-99/1234"; a store that ignores Range answers without it, with everything.
        total = answer.get("ContentRange", "").rpartition("/")[2]
        metadata = answer.get("Metadata", {})
        return StoredObject(
            key=key,
            size=int(total) if total else len(head),
            received=metadata.get(RECEIVED, moment(answer["LastModified"])),
            calling_ae_title=unquote(metadata.get(CALLING_AE_TITLE, "")),
            head=head,
            metadata=metadata,
            etag=answer["ETag"].strip('"'),
        )

    def read(self, key: str) -> bytes:
        """Return a whole object; raises as `head` does."""
        with _asking_for(key):
            return self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def pieces(self, key: str) -> Iterator[bytes]:
        """Yield a whole object in pieces; raises as `head` does, also half-way."""
        with _asking_for(key):
            body = self._client.get_object(Bucket=self.bucket, Key=key)["Body"]
            yield from body.iter_chunks(_READ_BYTES)

    def range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes of an object from `start` on; as `head` otherwise."""
        with _asking_for(key):
            answer = self._client.get_object(
                Bucket=self.bucket, Key=key, Range=f"bytes={start}-{start + length - 1}"
            )
            return answer["Body"].read()

    def form(self, key: str) -> Form:
        """Return what S3 says of a form, whose bytes are not read; as `head` otherwise."""
        with _asking_for(key):
            answer = self._client.head_object(Bucket=self.bucket, Key=key)
        metadata = answer["Metadata"]
        return Form(
            key,
            answer["ContentLength"],
            metadata.get(FORM_SHA256, ""),
            metadata.get(RECEIVED, ""),
        )

    def holds(self, key: str) -> bool:
        """Tell whether the bucket holds the object, or raise `StoreUnavailable`."""
        try:
            with _asking_for(key):
                self._client.head_object(Bucket=self.bucket, Key=key)
        except InstanceMissing:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """List object keys under a prefix in key order, so that a study's come together."""
        return (listed.key for listed in self.listing(prefix))

    def listing(self, prefix: str) -> Iterator[Listed]:
        """List objects under a prefix in key order, a thousand a request."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        try:
            for page in pages:
                for entry in page.get("Contents", []):
                    etag = entry["ETag"].strip('"')
                    yield Listed(entry["Key"], entry["Size"], etag, entry["LastModified"])
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"S3 could not list the bucket: {error_code(error)}") from error

    def studies(self) -> Iterator[tuple[str, Iterator[Listed]]]:
        """List originals and forms by study, in the one order that the bucket lists both in.

        Objects of a study can be had until the next study is asked for.
        """
        listings = (self.listing(prefix) for prefix in OF_STUDIES)
        return itertools.groupby(heapq.merge(*listings, key=_behind_prefix), key=_study_of)

    def is_deleting(self, study_instance_uid: str) -> bool:
        """Tell whether a deletion of a study is under way, which hides objects before items."""
        return is_being_deleted(self.keys(deletions_prefix(study_instance_uid)))

    def known_sha256(self, key: str) -> str | None:
        """Return the SHA-256 that S3 compared when the whole object was written, if it did.

        Raises:
            InstanceMissing: the bucket holds no such object.
            StoreUnavailable: S3 refused or could not be reached.
        """
        with _asking_for(key):
            answer = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        # Of parts it knows a SHA-256 of their SHA-256s, with a dash and their number behind it.
        checksum = answer.get("ChecksumSHA256", "")
        return b64decode(checksum).hex() if checksum and "-" not in checksum else None

    def sha256(self, key: str) -> str:
        """Read an object to its end and return its SHA-256, hexadecimal.

        Raises:
            InstanceMissing: the bucket holds no such object.
            StoreUnavailable: S3 refused, or broke off.
        """
        digest = hashlib.sha256()
        for piece in self.pieces(key):
            digest.update(piece)
        return digest.hexdigest()

    # Documents

    def read_document(self, key: str) -> bytes | None:
        """Return a document, None when there is none, or raise `StoreUnavailable`."""
        try:
            return self.read(key)
        except InstanceMissing:
            return None

    def create_document(
        self, key: str, document: bytes, tag: tuple[str, str] | None = None
    ) -> bool:
        """Write a document that is not there yet; False when one is. Raises `StoreUnavailable`.

        It may get a tag, name and value.
        """
        tagging = {} if tag is None else {"Tagging": urlencode([tag])}
        return self._put(key, document, IfNoneMatch="*", **tagging)

    def replace_document(self, key: str, document: bytes) -> None:
        """Write a document, whatever is there, or raise `StoreUnavailable`."""
        self._put(key, document)

    def _put(self, key: str, document: bytes, **options: str) -> bool:
        try:
            self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=document,
                ContentType="application/json",
                **options,  # type: ignore[arg-type]
            )
        except ClientError as error:
            if "IfNoneMatch" in options and error_code(error) in _PRECONDITION_FAILED:
                return False
            raise StoreUnavailable(f"S3 refused: {error_code(error)}") from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"S3 did not answer: {type(error).__name__}") from error
        return True


def _behind_prefix(listed: Listed) -> str:
    return listed.key.partition("/")[2]


def _study_of(listed: Listed) -> str:
    return _behind_prefix(listed).partition("/")[0]


@contextmanager
def _asking_for(key: str) -> Iterator[None]:
    """Tell failures of S3 in our own words: the object is missing, or the store unavailable."""
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code in _MISSING_CODES:
            raise InstanceMissing(f"the bucket holds no object {key}") from error
        raise StoreUnavailable(f"S3 refused: {code}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"S3 did not answer: {type(error).__name__}") from error
