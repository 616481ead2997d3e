"""Which internal storage format an instance gets: rules an operator writes, the first that fits.

    modality=MG,DX bits=16 -> htj2k; sop-class=1.2.840.10008.5.1.4.1.1.66.4 -> deflate;
    jpeg-lossless

Conditions of a rule must all hold, and a condition holds when one of its values does. A rule
without conditions fits everything; where none fits, instances stay as they came.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from .identifiers import is_uid
from .transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    JPEG_2000_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    RLE_LOSSLESS,
)

#: Names of the formats an operator may ask for; the transfer syntax, None to keep what came.
TARGETS: Final[Mapping[str, str | None]] = {
    "none": None,
    "jpeg-lossless": JPEG_LOSSLESS_SV1.uid,
    "jpeg-ls": JPEG_LS_LOSSLESS.uid,
    "jpeg-2000": JPEG_2000_LOSSLESS.uid,
    "htj2k": HTJ2K_LOSSLESS.uid,
    "htj2k-rpcl": HTJ2K_LOSSLESS_RPCL.uid,
    "rle": RLE_LOSSLESS.uid,
    "deflate": DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid,
}
_CONDITIONS: Final = ("modality", "sop-class", "syntax", "bits")


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules ask of an instance; `bits` is Bits Allocated, 0 where there are no pixels."""

    modality: str
    sop_class_uid: str
    transfer_syntax_uid: str
    bits: int

    def of(self, condition: str) -> str:
        """Return the fact that a condition names."""
        return {
            "modality": self.modality,
            "sop-class": self.sop_class_uid,
            "syntax": self.transfer_syntax_uid,
            "bits": str(self.bits),
        }[condition]


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions, each with the values that fulfil it, and the transfer syntax they lead to."""

    conditions: tuple[tuple[str, frozenset[str]], ...]
    target: str | None

    def fits(self, facts: Facts) -> bool:
        """Tell whether every condition holds."""
        return all(facts.of(name) in values for name, values in self.conditions)


@dataclass(frozen=True, slots=True)
class TranscodingPolicy:
    """Rules, the first that fits."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the rules, or raise `ValueError` with what to write instead."""
        return cls(tuple(_rule(part.strip()) for part in text.split(";") if part.strip()))

    @property
    def keeps_everything(self) -> bool:
        """Tell whether no rule leads to another format."""
        return all(rule.target is None for rule in self.rules)

    def target(self, facts: Facts) -> str | None:
        """Return the transfer syntax that an instance gets, None when it stays as it came."""
        return next((rule.target for rule in self.rules if rule.fits(facts)), None)


def _rule(text: str) -> Rule:
    conditions, arrow, target = text.rpartition("->")
    name = target.strip()
    if name not in TARGETS:
        raise ValueError(f"must lead to one of {', '.join(TARGETS)}, and {name!r} is none of them")
    if arrow and not conditions.strip():
        raise ValueError(f"must have a condition before the arrow in {text!r}")
    return Rule(tuple(_condition(each) for each in conditions.split()), TARGETS[name])


def _condition(text: str) -> tuple[str, frozenset[str]]:
    name, equals, values = text.partition("=")
    listed = frozenset(value for value in values.split(",") if value)
    if name not in _CONDITIONS or not equals or not listed:
        raise ValueError(
            f"must have conditions {', '.join(f'{each}=...' for each in _CONDITIONS)}, "
            f"and {text!r} is none of them"
        )
    if name in ("sop-class", "syntax") and not all(map(is_uid, listed)):
        raise ValueError(f"must have UIDs in {text!r}")
    return name, listed
