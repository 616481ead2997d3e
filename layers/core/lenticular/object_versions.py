"""The versions that the bucket keeps of its objects: hiding them, showing them, and their tags.

An object is hidden by a delete marker on its newest version, and shown when the marker is taken
away. What is hidden stays until the bucket's lifecycle ends it, by the tag of the version; nothing
here destroys a byte.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from .errors import StoreUnavailable
from .moments import moment

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_GONE_CODES: Final = frozenset({"NoSuchKey", "404", "NoSuchVersion", "MethodNotAllowed", "405"})
_PARALLEL: Final = 16
#: S3's name of a version that is older than the bucket's versioning.
_NULL_VERSION: Final = "null"


@dataclass(slots=True)
class Held:
    """What the bucket holds under a key: its versions, and the marker that is on the newest.

    Attributes:
        version: the newest; empty where there are markers alone
        older: the others; what was sent again, or made again, is in front of them
        size, modified: of the newest
        marker: the marker on it; empty where it can be seen
    """

    version: str = ""
    older: list[str] = field(default_factory=list)
    size: int = 0
    modified: str = ""
    marker: str = ""

    @property
    def is_seen(self) -> bool:
        """Whether a reader of the object gets the newest version."""
        return bool(self.version and not self.marker)


class ObjectVersions:
    """Reads and hides versions of one bucket. What fails raises `StoreUnavailable`."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        """Work on `bucket` through `client`."""
        self._client = client
        self._bucket = bucket

    def are_kept(self) -> bool:
        """Tell whether the bucket keeps versions, so that what is hidden can be shown again."""
        answer = self._asked(self._client.get_bucket_versioning)
        return answer is not None and answer.get("Status") == "Enabled"

    def held(self, prefixes: Iterable[str]) -> dict[str, Held]:
        """Return what the bucket holds under prefixes, seen or not, by key and in its order."""
        found: dict[str, Held] = defaultdict(Held)
        pages = self._client.get_paginator("list_object_versions")
        try:
            for prefix in prefixes:
                for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                    for version in page.get("Versions", []):
                        held = found[version["Key"]]
                        # S3 lists the newest first.
                        if held.version:
                            held.older.append(version["VersionId"])
                        else:
                            held.version, held.size = version["VersionId"], version["Size"]
                            held.modified = moment(version["LastModified"])
                    for marker in page.get("DeleteMarkers", []):
                        if marker["IsLatest"]:
                            found[marker["Key"]].marker = marker["VersionId"]
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"S3 did not list versions: {type(error).__name__}") from error
        return dict(found)

    def hide(self, key: str) -> None:
        """Put a delete marker on an object."""
        self._asked(self._client.delete_object, Key=key)

    def hide_all(self, versions: Iterable[tuple[str, str]], tag: tuple[str, str]) -> None:
        """Tag versions, by key and version, and hide each where it is the one seen."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda each: self._hide_version(each[0], each[1], tag), versions))

    def _hide_version(self, key: str, version: str, tag: tuple[str, str]) -> None:
        # By its version: whatever takes its place, no other one ends by the tag.
        if not self._tag(key, version, tag):
            return
        answer = self._asked(self._client.head_object, Key=key)
        if answer is not None and answer.get("VersionId", _NULL_VERSION) == version:
            self.hide(key)

    def show_all(self, markers: Iterable[tuple[str, str]]) -> None:
        """Take delete markers away, each by its key and its own version."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda each: self._take_away(each[0], each[1]), markers))

    def _take_away(self, key: str, marker: str) -> None:
        self._asked(self._client.delete_object, Key=key, VersionId=marker)

    def tag_all(self, versions: Iterable[tuple[str, str]], tag: tuple[str, str]) -> None:
        """Give versions, by key and version, one tag; an empty version is none."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda each: self._tag(each[0], each[1], tag), versions))

    def _tag(self, key: str, version: str, tag: tuple[str, str]) -> bool:
        """Give a version one tag, whatever it had; False when there is no such version."""
        if not version:
            return False
        name, value = tag
        answer = self._asked(
            self._client.put_object_tagging,
            Key=key,
            VersionId=version,
            Tagging={"TagSet": [{"Key": name, "Value": value}]},
        )
        return answer is not None

    def tags(self, key: str, version: str) -> frozenset[tuple[str, str]]:
        """Return the tags of a version; none where there is no such version."""
        answer = self._asked(self._client.get_object_tagging, Key=key, VersionId=version)
        tags = [] if answer is None else answer["TagSet"]
        return frozenset((tag["Key"], tag["Value"]) for tag in tags)

    def untag_all(self, keys: Iterable[str]) -> bool:
        """Take the tags from objects that can be seen; False when one of them cannot."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return all(pool.map(self.untag, keys))

    def untag(self, key: str) -> bool:
        """Take the tags from an object that can be seen; False when it cannot."""
        return self._asked(self._client.delete_object_tagging, Key=key) is not None

    def _asked(self, operation: Callable[..., Any], **request: object) -> Any:  # noqa: ANN401
        """Return what S3 answers; None where there is no such object (any more)."""
        try:
            return operation(Bucket=self._bucket, **request)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _GONE_CODES:
                return None
            raise StoreUnavailable(f"S3 refused: {code}") from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"S3 did not answer: {type(error).__name__}") from error
