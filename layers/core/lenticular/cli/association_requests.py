"""What the association requests of commands are like (PS3.8 9.3.2), whoever is called."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lenticular.sop_classes import (
    PATIENT_ROOT_FIND,
    PATIENT_STUDY_ONLY_FIND,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
)
from lenticular.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

#: An abstract syntax and the transfer syntaxes that are offered for it.
Context = tuple[str, Sequence[str]]

MAX_PDU_BYTES: Final = 128 << 10
CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
#: A peer that moves or gets may take this long for one instance.
SUB_OPERATION_SECONDS: Final = 600.0
#: A request has room for so many contexts, PS3.8 9.3.2.2: odd numbers below 256.
MOST_CONTEXTS: Final = 128
UNCOMPRESSED: Final = (EXPLICIT_VR_LITTLE_ENDIAN.uid, IMPLICIT_VR_LITTLE_ENDIAN.uid)

#: Every service beside storage that a command uses of a peer.
SERVICES: Final[Mapping[str, Sequence[str]]] = dict.fromkeys(
    (
        VERIFICATION,
        PATIENT_ROOT_FIND,
        STUDY_ROOT_FIND,
        PATIENT_STUDY_ONLY_FIND,
        STUDY_ROOT_MOVE,
        STUDY_ROOT_GET,
    ),
    UNCOMPRESSED,
)


def context_of(service_uid: str) -> Context:
    """Return what is proposed for one of the services; raises `KeyError` for any other."""
    return service_uid, SERVICES[service_uid]


def to_receive(sop_class_uids: Iterable[str]) -> list[Context]:
    """Return a context for each class that C-GET may bring, beside that of C-GET itself."""
    contexts: list[Context] = [(uid, UNCOMPRESSED) for uid in sop_class_uids]
    return contexts[: MOST_CONTEXTS - 1]


def to_send(files: Iterable[tuple[str, str]]) -> list[Context]:
    """Return a context for each class in each syntax, and one for each class uncompressed."""
    syntaxes: dict[str, dict[str, None]] = defaultdict(dict)
    for sop_class_uid, transfer_syntax_uid in files:
        syntaxes[sop_class_uid][transfer_syntax_uid] = None
    contexts: list[Context] = []
    for sop_class_uid, of_class in syntaxes.items():
        contexts += [(sop_class_uid, [uid]) for uid in of_class]
        if set(of_class) & set(UNCOMPRESSED):
            others = [uid for uid in UNCOMPRESSED if uid not in of_class]
            if others:
                contexts.append((sop_class_uid, others))
    return contexts
