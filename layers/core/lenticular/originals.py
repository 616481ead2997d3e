"""The very bytes that were received, wherever they are: in the original object, or in a form of it.

Where originals are retired, one is restored from a form each time it is asked for, and is checked
against the SHA-256 in its key before anybody gets it.
"""

from collections.abc import Callable
from hashlib import sha256

from .archive import InstanceKey
from .byte_ranges import InMemory
from .errors import CannotUnderstand, InstanceMissing, StoreUnavailable
from .index_items import Item, converted
from .splice import restored


def read_original(get: Callable[[str], memoryview], item: Item) -> memoryview:
    """Return the original file of the content that an instance's item shows.

    `get` returns a whole object, or raises as this does.

    Raises:
        InstanceMissing: the bucket holds neither the original nor a form that restores to it.
        StoreUnavailable: S3 refused or could not be reached.
    """
    object_key, became = str(item["object_key"]), converted(item)
    missing: InstanceMissing | None = None
    if not became.retired:
        try:
            return get(object_key)
        except InstanceMissing as error:
            # It may have been retired since the item was read.
            missing = error
    original = InstanceKey.parse(object_key)
    for form in became.forms if original else ():
        try:
            file = memoryview(b"".join(restored(InMemory(get(form.object_key)))))
        except (InstanceMissing, CannotUnderstand):
            continue
        if original and sha256(file).hexdigest() == original.sha256:
            return file
    if became.retired and not became.forms:
        raise StoreUnavailable("the item of a retired instance names no form: rebuild the index")
    raise missing or InstanceMissing(f"no form restores to {object_key}")
