"""Specific Character Set (0008,0005): bytes to text and back. PS3.3 C.12.1.1.2, PS3.5 6.1.2.

With code extensions, which is when the attribute has several values or one that starts with
"ISO 2022", two code elements are in use at any moment, and escape sequences exchange them:

    G0  bytes 21 to 7E: ASCII, JIS X 0201 romaji, or pairs of JIS X 0208 or JIS X 0212
    G1  bytes A0 to FF: one of the single-byte sets, katakana, or pairs of KS X 1001 or GB 2312

The first value of the attribute says which are in use at the start, and again behind each
delimiter (PS3.5 6.1.2.5.3): a line end, a backslash, `^` and `=` of a person name. UTF-8, GB18030
and GBK stand alone and know no escapes.

Reading forgives: names of sets misspelt, escapes not announced, text that is really UTF-8 or
Latin-1 where nothing was announced. What still has no meaning becomes U+FFFD, never an exception.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

UTF_8_TERM: Final = "ISO_IR 192"

_ESCAPE: Final = 0x1B
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_LINE_ENDS: Final = b"\t\n\f\r"
#: The delimiters of text with several values; of a person name; of text with one value.
VALUE_DELIMITERS: Final = _LINE_ENDS + b"\\"
PERSON_NAME_DELIMITERS: Final = VALUE_DELIMITERS + b"^="
TEXT_DELIMITERS: Final = _LINE_ENDS


@dataclass(frozen=True, slots=True)
class _CodeElement:
    """One set of characters: where it is invoked, the escape sequence that brings it there.

    `decode` and `encode` work on bytes as they stand in a data set; `encode` raises UnicodeError.
    """

    escape: bytes
    upper: bool
    pairs: bool
    decode: Callable[[bytes], str]
    encode: Callable[[str], bytes]


def _plain(codec: str, escape: bytes, *, upper: bool = True, pairs: bool = False) -> _CodeElement:
    """Describe a code element whose bytes a Python codec knows as they are."""
    return _CodeElement(
        escape,
        upper,
        pairs,
        lambda raw: raw.decode(codec, "replace"),
        lambda text: text.encode(codec),
    )


def _decode_katakana(raw: bytes) -> str:
    # JIS X 0201 katakana A1 to DF stand in Unicode in the same order from U+FF61.
    return "".join(
        chr(0xFF61 + byte - 0xA1) if 0xA1 <= byte <= 0xDF else _REPLACEMENT  # noqa: PLR2004
        for byte in raw
    )


def _encode_katakana(text: str) -> bytes:
    if not all("\uff61" <= character <= "\uff9f" for character in text):
        raise UnicodeError
    return bytes(ord(character) - 0xFF61 + 0xA1 for character in text)


def _decode_jis_x_0208(raw: bytes) -> str:
    # EUC-JP is JIS X 0208 with the high bits set.
    return bytes(byte | 0x80 for byte in raw).decode("euc_jp", "replace")


def _encode_jis_x_0208(text: str) -> bytes:
    encoded = text.encode("euc_jp")
    # 8E and 8F announce katakana and JIS X 0212 in EUC-JP; a low byte is ASCII.
    if any(byte < 0xA1 for byte in encoded):  # noqa: PLR2004
        raise UnicodeError
    return bytes(byte & 0x7F for byte in encoded)


def _decode_jis_x_0212(raw: bytes) -> str:
    # In EUC-JP each pair of JIS X 0212 comes behind 8F.
    announced = b"".join(
        b"\x8f" + bytes(byte | 0x80 for byte in raw[start : start + 2])
        for start in range(0, len(raw), 2)
    )
    return announced.decode("euc_jp", "replace")


def _encode_jis_x_0212(text: str) -> bytes:
    encoded = text.encode("euc_jp")
    if len(encoded) != 3 * len(text) or any(byte != 0x8F for byte in encoded[::3]):  # noqa: PLR2004
        raise UnicodeError
    return bytes(byte & 0x7F for index, byte in enumerate(encoded) if index % 3)


_ASCII: Final = _plain("ascii", b"\x1b(B", upper=False)
# Romaji differs from ASCII in two places, yen sign and overline, which data sets use for the
# backslash and the tilde all the same.
_ROMAJI: Final = _plain("ascii", b"\x1b(J", upper=False)
_KATAKANA: Final = _CodeElement(
    b"\x1b)I", upper=True, pairs=False, decode=_decode_katakana, encode=_encode_katakana
)
_JIS_X_0208: Final = _CodeElement(
    b"\x1b$B", upper=False, pairs=True, decode=_decode_jis_x_0208, encode=_encode_jis_x_0208
)
_JIS_X_0212: Final = _CodeElement(
    b"\x1b$(D", upper=False, pairs=True, decode=_decode_jis_x_0212, encode=_encode_jis_x_0212
)
_KS_X_1001: Final = _plain("euc_kr", b"\x1b$)C", pairs=True)
_GB_2312: Final = _plain("gb2312", b"\x1b$)A", pairs=True)

# PS3.3 tables C.12-2 to C.12-4, by what is left of a term without its punctuation. The final
# character of a single-byte escape is the one of the ISO registry.
_G1_OF: Final[Mapping[str, _CodeElement]] = {
    "13": _KATAKANA,
    "100": _plain("iso8859_1", b"\x1b-A"),
    "101": _plain("iso8859_2", b"\x1b-B"),
    "109": _plain("iso8859_3", b"\x1b-C"),
    "110": _plain("iso8859_4", b"\x1b-D"),
    "126": _plain("iso8859_7", b"\x1b-F"),
    "127": _plain("iso8859_6", b"\x1b-G"),
    "138": _plain("iso8859_8", b"\x1b-H"),
    "144": _plain("iso8859_5", b"\x1b-L"),
    "148": _plain("iso8859_9", b"\x1b-M"),
    "166": _plain("iso8859_11", b"\x1b-T"),
    "203": _plain("iso8859_15", b"\x1b-b"),
    "149": _KS_X_1001,
    "58": _GB_2312,
}
_G0_OF: Final[Mapping[str, _CodeElement]] = {"87": _JIS_X_0208, "159": _JIS_X_0212}
_BY_ESCAPE: Final[Mapping[bytes, _CodeElement]] = {
    each.escape: each for each in (_ASCII, _ROMAJI, *_G1_OF.values(), *_G0_OF.values())
}
_STAND_ALONE: Final[Mapping[str, str]] = {
    "ISOIR192": "utf-8",
    "UTF8": "utf-8",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "ISO2022GBK": "gbk",
    "ISO2022GB18030": "gb18030",
}
_EXTENDABLE_TERM: Final = re.compile(r"(?:ISO(?:2022)?(?:IR)?)?([0-9]+)")
_DEFAULT_REPERTOIRE: Final = frozenset({"", "ISOIR6", "ISO2022IR6"})
_ESCAPE_SEQUENCE: Final = re.compile(rb"\x1b(?:\$[()][A-Z]|\$[@AB]|[()\-][A-Za-z])")
_RUNS: Final = re.compile(rb"[\x80-\xff]+|[\x00-\x7f]+")


@dataclass(frozen=True, slots=True)
class CharacterSets:
    """The character sets of one data set; made by `character_sets`.

    `known` tells whether every term was one of the standard's, or a misspelling of one.
    """

    terms: tuple[str, ...]
    known: bool
    codec: str | None
    lower: _CodeElement
    upper: _CodeElement | None
    announced: tuple[_CodeElement, ...]

    def decode(self, raw: bytes, delimiters: bytes = VALUE_DELIMITERS) -> str:
        """Decode a value field, whole: a backslash in it may be half a character until then."""
        if self.codec is not None:
            return raw.decode(self.codec, "replace")
        if _ESCAPE in raw:
            return self._decode_escaped(raw, delimiters)
        if raw.isascii():
            return raw.decode("ascii")
        return self._decode_run(raw, self.lower, self.upper)

    def encode(self, text: str, delimiters: bytes = VALUE_DELIMITERS) -> bytes:
        """Encode text, raising UnicodeError when these sets cannot carry it."""
        if text.isascii() and "\x1b" not in text:
            return text.encode("ascii")
        if self.codec is not None:
            return text.encode(self.codec)
        return self._encode_escaped(text, delimiters)

    def can_encode(self, text: str) -> bool:
        """Tell whether these sets can carry `text`."""
        try:
            self.encode(text)
        except UnicodeError:
            return False
        return True

    def _decode_escaped(self, raw: bytes, delimiters: bytes) -> str:
        lower, upper = self.lower, self.upper
        parts: list[str] = []
        position = 0
        while position < len(raw):
            escape = _ESCAPE_SEQUENCE.match(raw, position)
            element = _BY_ESCAPE.get(escape[0]) if escape else None
            if escape is not None and element is not None:
                lower, upper = (lower, element) if element.upper else (element, upper)
                position = escape.end()
                continue
            if raw[position] == _ESCAPE:  # an escape of no set we know
                parts.append(_REPLACEMENT)
                position += 1
                continue
            stop = self._stop_of_run(raw, position, lower, delimiters)
            if stop == position:
                parts.append(chr(raw[position]))
                lower, upper = self.lower, self.upper
                stop += 1
            else:
                parts.append(self._decode_run(raw[position:stop], lower, upper))
            position = stop
        return "".join(parts)

    def _stop_of_run(self, raw: bytes, start: int, lower: _CodeElement, delimiters: bytes) -> int:
        """Return where the next escape or delimiter stands, `start` itself if there."""
        # Half a pair of JIS looks like any delimiter that is not a control character, and writers
        # must go back to one byte a character before a delimiter.
        stoppers = _LINE_ENDS if lower.pairs else delimiters
        for position in range(start, len(raw)):
            if raw[position] == _ESCAPE or raw[position] in stoppers:
                return position
        return len(raw)

    def _decode_run(self, raw: bytes, lower: _CodeElement, upper: _CodeElement | None) -> str:
        if upper is None and not lower.pairs:
            return self._decode_unescaped(raw)
        return "".join(
            lower.decode(run)
            if run[0] < 0x80  # noqa: PLR2004
            else (upper.decode(run) if upper else _REPLACEMENT * len(run))
            for run in _RUNS.findall(raw)
        )

    def _decode_unescaped(self, raw: bytes) -> str:
        """Decode what no escape precedes: in a set that is announced, if it makes sense in one.

        Some writers, pydicom for GB 2312 among them, leave the escapes out.
        """
        if not raw.isascii():
            for element in self.announced:
                text = self._decode_run(raw, self.lower, element) if element.upper else ""
                if text and _REPLACEMENT not in text:
                    return text
        return _decode_unannounced(raw)

    def _encode_escaped(self, text: str, delimiters: bytes) -> bytes:
        encoded = bytearray()
        # Sets of pairs are announced at the start of each text even when the first value of the
        # attribute names them (PS3.5 annex I), which it should not (PS3.3 C.12.1.1.2).
        first_upper = None if self.upper is None or self.upper.pairs else self.upper
        lower, upper = self.lower, first_upper
        for character in text:
            if character.isascii():
                if lower.pairs:
                    lower = self.lower
                    encoded += lower.escape
                code = ord(character)
                if code == _ESCAPE:
                    raise UnicodeError
                encoded.append(code)
                if code in delimiters:
                    lower, upper = self.lower, first_upper
                continue
            element, code_bytes = self._element_for(character, lower, upper)
            if element.upper and lower.pairs:
                # Not needed, but some readers know only one code element at a time.
                lower = self.lower
                encoded += lower.escape
            if element is not lower and element is not upper:
                encoded += element.escape
                lower, upper = (lower, element) if element.upper else (element, upper)
            encoded += code_bytes
        if lower.pairs:
            encoded += self.lower.escape
        return bytes(encoded)

    def _element_for(
        self, character: str, lower: _CodeElement, upper: _CodeElement | None
    ) -> tuple[_CodeElement, bytes]:
        """Return what carries a character, what is in use now first."""
        for element in (upper, lower, *self.announced):
            if element is None or element in (_ASCII, _ROMAJI):
                continue
            try:
                return element, element.encode(character)
            except UnicodeError:
                continue
        raise UnicodeError


def character_sets(terms: Iterable[str]) -> CharacterSets:
    """Interpret the values of Specific Character Set; none means the default repertoire."""
    return _character_sets(tuple(terms))


def choose_character_set(requested: Sequence[str], texts: Iterable[str]) -> list[str]:
    """Choose the Specific Character Set of an answer: the asker's when it carries `texts`.

    Otherwise UTF-8, which carries everything. An empty list means that the attribute is not
    needed: plain ASCII, to an asker who requested nothing or nothing we know.
    """
    sets = character_sets(requested)
    if not sets.known:
        requested, sets = (), character_sets(())
    return list(requested) if all(map(sets.can_encode, texts)) else [UTF_8_TERM]


@lru_cache(maxsize=256)
def _character_sets(terms: tuple[str, ...]) -> CharacterSets:
    names = tuple(re.sub(r"[^A-Z0-9]", "", term.upper()) for term in terms) or ("",)
    codec = _STAND_ALONE.get(names[0])
    if codec is not None:
        return CharacterSets(terms, known=True, codec=codec, lower=_ASCII, upper=None, announced=())
    numbers = [_number_of(name) for name in names]
    elements = [_G1_OF.get(number) or _G0_OF.get(number) for number in numbers]
    known = all(
        element is not None or name in _DEFAULT_REPERTOIRE
        for element, name in zip(elements, names, strict=True)
    )
    first = elements[0]
    return CharacterSets(
        terms,
        known,
        codec=None,
        lower=_ROMAJI if first is _KATAKANA else _ASCII,
        upper=first if first is not None and first.upper else None,
        announced=tuple(element for element in elements if element is not None),
    )


def _number_of(name: str) -> str:
    """Return the registration number in a term without its punctuation."""
    if name == "LATIN1":
        return "100"
    number = _EXTENDABLE_TERM.fullmatch(name)
    return number[1] if number else ""


def _decode_unannounced(raw: bytes) -> str:
    """Decode bytes beyond ASCII that no set was announced for.

    They are against the standard and common. UTF-8 is hardly ever met by accident; the rest is
    Latin-1 more often than anything else, and reads so in DCMTK and pydicom.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
