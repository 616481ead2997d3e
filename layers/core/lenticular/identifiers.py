"""What may become a key, a path or a log line: UIDs and AE titles that the standard allows.

Peers have sent `..` as a SOP Instance UID and a slash in an AE title. Both are checked where they
enter, once; everything behind the check trusts them.
"""

import re
from typing import Final

# PS3.5 9.1: components of digits, joined by dots, 64 characters at most. A leading zero in a
# component is against the standard but common in real files and harmless in a key, so it passes.
_UID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*", re.ASCII)
_UID_MAX_CHARACTERS: Final = 64

# PS3.5 6.2: 16 characters at most of the default repertoire, no backslash, no control character,
# not only spaces. A slash is legal there; an AE title therefore never becomes a path or a key
# without `aet_key_part`.
_AE_TITLE: Final = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}", re.ASCII)


def is_uid(text: str) -> bool:
    """Tell whether `text` is a UID that may become part of a key (PS3.5 9.1)."""
    return len(text) <= _UID_MAX_CHARACTERS and _UID.fullmatch(text) is not None


def is_ae_title(text: str) -> bool:
    """Tell whether `text` is an AE title without its padding (PS3.5 6.2)."""
    return _AE_TITLE.fullmatch(text) is not None and text.strip(" ") == text


# In a key each character of an AE title that is not one of these is a dot and two hexadecimal
# digits: no slash, no "..", nothing that S3 or a URL has a meaning of its own for.
_KEPT: Final = re.compile(r"[A-Za-z0-9_-]")
_KEY_PART: Final = re.compile(r"(?:[A-Za-z0-9_-]|\.[0-9A-F]{2})+", re.ASCII)
_ESCAPED: Final = re.compile(r"\.([0-9A-F]{2})", re.ASCII)


def aet_key_part(ae_title: str) -> str:
    """Write an AE title as part of an object key."""
    return "".join(
        character if _KEPT.match(character) else f".{ord(character):02X}" for character in ae_title
    )


def ae_title_of_key_part(part: str) -> str | None:
    """Read what `aet_key_part` wrote; None when it is no AE title."""
    if _KEY_PART.fullmatch(part) is None:
        return None
    ae_title = _ESCAPED.sub(lambda escaped: chr(int(escaped[1], 16)), part)
    return ae_title if is_ae_title(ae_title) and aet_key_part(ae_title) == part else None
