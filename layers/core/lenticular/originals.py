"""The very bytes that were received, wherever they are: in the original object, or in a form of it.

Where originals are retired, one is restored from a form each time it is asked for, and is checked
against the SHA-256 in its key before anybody gets it.
"""

from functools import partial
from hashlib import sha256
from typing import IO

from .archive import Archive, Form, InstanceKey
from .byte_ranges import ReadAhead
from .errors import CannotUnderstand, InstanceMissing, StoreUnavailable
from .index_items import Item, converted
from .splice import restored


def write_original(archive: Archive, item: Item, out: IO[bytes]) -> None:
    """Write the original file of the content that an instance's item shows into an empty file.

    However long it is, a few MiB of it are in memory, and of an image's frames one. What an
    exception leaves in the file is of no use.

    Raises:
        InstanceMissing: the bucket holds neither the original nor a form that restores to it.
        StoreUnavailable: S3 refused or could not be reached.
    """
    object_key, became = str(item["object_key"]), converted(item)
    missing: InstanceMissing | None = None
    if not became.retired:
        try:
            out.writelines(archive.pieces(object_key))
        except InstanceMissing as error:
            # It may have been retired since the item was read.
            missing = error
        else:
            return
    original = InstanceKey.parse(object_key)
    for form in became.forms if original else ():
        if original and _is_restored(archive, form, original, out):
            return
    if became.retired and not became.forms:
        raise StoreUnavailable("the item of a retired instance names no form: rebuild the index")
    raise missing or InstanceMissing(f"no form restores to {object_key}")


def _is_restored(archive: Archive, form: Form, original: InstanceKey, out: IO[bytes]) -> bool:
    """Write what a form restores to in place of what the file holds; tell whether it is that."""
    out.seek(0)
    out.truncate()
    digest = sha256()
    ranges = ReadAhead(partial(archive.range, form.object_key), form.size)
    try:
        for piece in restored(ranges):
            out.write(piece)
            digest.update(piece)
    except (InstanceMissing, CannotUnderstand):
        return False
    return digest.hexdigest() == original.sha256
