"""The DICOM Conformance Statement, PS3.2 annex N, written from the tables that the node runs on.

`python -m infra.conformance` writes infra/guide/conformance-statement.md. Whoever adds a SOP class,
a transfer syntax or a status changes it by that; a test says when the file is not what this writes,
and another holds it against the negotiation of a running node.
"""

from pathlib import Path
from typing import Final

from gateway.negotiation import MAX_CONTEXTS
from infra.conformance_tables import (
    COMMANDS,
    association_parameters,
    character_sets,
    command_association_parameters,
    command_parameters,
    default_of,
    extended_negotiation,
    failure_reasons,
    gateway_parameters,
    information_models,
    keys,
    media_services,
    proposed_contexts,
    rejections,
    services_beside_storage,
    services_by_entity,
    statuses,
    storage_classes,
    storage_syntaxes,
    tls_profiles,
)
from lenticular import __version__
from lenticular.status import FindStatus, MoveStatus, ProcedureStepStatus, StoreStatus

FILE: Final = Path(__file__).with_name("guide") / "conformance-statement.md"


def statement() -> str:
    """Return the whole statement in Markdown."""
    return (
        "\n\n".join(
            (
                _HEAD.format(version=__version__),
                _overview(),
                _INTRODUCTION,
                _IMPLEMENTATION_MODEL,
                _services(),
                _configuration(),
                _communication(),
                _security(),
                _ANNEXES,
                _character_sets(),
                "",
            )
        ).rstrip()
        + "\n"
    )


def _overview() -> str:
    return f"""## 1. Overview

Lenticular is an archive node: it takes instances into custody, finds them, hands them out, commits to their
safekeeping, and keeps the performed procedure steps they belong to. It creates no instances of its own and shows none.

```
 modality ── C-STORE, N-ACTION, N-CREATE, N-SET ──▶ ┌────────────┐ ── C-STORE (of a C-MOVE) ──▶ viewer, archive
 viewer ──── C-FIND, C-MOVE, C-GET, N-GET ────────▶ │ Lenticular │ ── N-EVENT-REPORT ─────────▶ modality
 anyone ──── C-ECHO ──────────────────────────────▶ └────────────┘
 archive ◀── C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET ── ( the operator's commands ) ── files ─▶ file-set with a DICOMDIR
```

### 1.1. Content and Transfer

Table 1-1 lists the storage SOP classes. For each of them: DIMSE role SCP (it is stored here) and SCU (it is sent from
here, by C-MOVE or C-GET, and by the operator's commands); no DICOM web service; on media as file-set creator, see
section 5.3; function *archive*. The transfer syntax set of each is UTS,
table 1-2. Class by class all are independent of each other, and all may be mixed on one association.

**Table 1-1. Storage SOP classes**

{storage_classes()}

Other storage classes, private ones included, are refused, or taken with `LENTICULAR_UNKNOWN_CLASSES=accept`.

**Table 1-2. Transfer syntax set UTS**

{storage_syntaxes()}

### 1.2. Other Services

**Table 1-3. Services beside storage**

{services_beside_storage()}

**Table 1-4. Media services**

{media_services()}

DICOM web services and DICOM real-time video: none."""


def _services() -> str:
    return f"""## 5. Service and Interoperability Description

### 5.1. Mapping of Services to Application Entities

**Table 5-1. Services by application entity**

{services_by_entity()}

### 5.2. Supported DIMSE Services

#### 5.2.1. Verification

C-ECHO is answered with 0000 to everyone who may associate. As SCU (`lenticular nodes echo`) status and time of the answer are shown.

#### 5.2.2. Storage

Level 2 (full) storage as SCP (PS3.4 B.4.1): every attribute is kept, private ones included, the data set bit for bit as it
was sent. Nothing is coerced. 0000 says that the instance is durable: in S3, or in the spool where the operator chose that.

The same instance sent again with the same bytes is answered 0000 and changes nothing. With other bytes both are kept, and
which one is shown is the operator's choice (`Duplicates`: the newest, or the first). An instance without a valid Study or
Series Instance UID is kept, answered 0000 and listed as quarantined. A data set that ends before an element does, or before
the delimiter of a value of undefined length, is answered C000; zeros behind the last element are let pass.

**Table 5-2. Statuses of C-STORE**

{statuses(StoreStatus)}

As SCU (sub-operation of C-MOVE and C-GET) an instance is sent in the transfer syntax it came in if the receiver accepts that,
else in that of a lossless form of it that the archive keeps, else uncompressed with every value as it was. Behind a data set of
an odd number of bytes, which a value of odd length makes, a zero byte is sent (PS3.8 E.1). 0000 and
the warnings (Bxxx, 0107, 0116, 0001) count as completed, anything else as failed; of a C-MOVE it is tried once more on a fresh association,
and so is what S3 did not give. A destination that refuses for the moment or does not listen is asked again for some seconds.

As SCU of files ({COMMANDS}: `lenticular send`, `lenticular import folder`) a file is sent in its own transfer syntax, one that is not compressed
also in the other VR. 0000 and Bxxx count as stored; A7xx and an association that breaks are tried again, twice unless told otherwise; anything else is shown as failed.

#### 5.2.3. Query

Hierarchical C-FIND, and relational where that was negotiated, in these models and levels:

**Table 5-3. Information models**

{information_models()}

**Table 5-4. Keys.** Each is returned at its level and, where it has been found there, below, and matched by the kind of
matching that its row names (PS3.4 C.2.2.2). All but sequences are matched by a single value, several values and the empty
value (`""`) too, and everything by universal matching. Wildcards are `*` and `?`; ranges may be open on either side; an empty
kind is a key that is returned only. Person names are matched without case and accents. U is the unique key of its level, C is
computed when it is asked for.

{keys()}

Any other key is ignored and answered FF01.

**Table 5-5. Statuses of C-FIND**

{statuses(FindStatus)}

More than `LENTICULAR_MAX_RESPONSES` matches (default {default_of("max_responses")}) end with A700. C-CANCEL acts within a page of the index.

As SCU ({COMMANDS}: `lenticular find`, and before `get` and `import node`) the keys are those that a person gives, at one of the levels PATIENT, STUDY, SERIES and
IMAGE; without any, some of table 5-4. `import node` asks for each Study Date by itself. Text beyond ASCII is sent in ISO_IR 192. Any status but pending and 0000 is shown as failed.

#### 5.2.4. Retrieve

C-MOVE and C-GET in the same models, at every level, with lists of UIDs below the level that is named. C-MOVE sends to nodes of
the list that have a port. It tells the receiver the Move Originator. By C-GET of several transfer syntaxes in one presentation context the
one that the negotiation policy says is taken, so who wants instances as they are stored proposes each syntax in a context of its own. Of the video classes
the first video syntax is taken. Sub-operations have the priority of the request, which changes nothing else. A unique key with a value below the level is refused (A900).

**Table 5-6. Statuses of C-MOVE and C-GET**

{statuses(MoveStatus)}

As SCU ({COMMANDS}) in the Study Root model: C-GET of a study or of series of it (`get`), C-MOVE of studies to this node (`import node`) or from it to
a node (`send --study`). A study counts as moved when the status is 0000, nothing failed, and no less was sent than the C-FIND before it said there is. Each instance of a C-GET is
answered 0000 when it is written, A700 when the disk does not take it, C000 when what it is named by is no UID.

#### 5.2.5. Storage Commitment

Push Model SCP. N-ACTION (action type 1) is answered 0000 when the request is durable; 0110 when its requester is no node of
the list with a port, or the request cannot be kept; 0112, 0113, 0114, 0115, 0123, 0131 as PS3.7 10.1.4.1.10 and PS3.3 C.14.1.1 have them. The report
(N-EVENT-REPORT, event type 1 or 2) is sent on a new association that this node opens to the requester's address and port, with SCP role selection. Instances
that are still being indexed are waited for; a requester that cannot be reached is tried again for hours (`CommitReportHours`).

**Table 5-7. Failure reasons in a report**

{failure_reasons()}

#### 5.2.6. Modality Performed Procedure Step

SCP of N-CREATE and N-SET (Modality Performed Procedure Step) and N-GET (its Retrieve SOP class). The states are IN PROGRESS, then COMPLETED or
DISCONTINUED, which are final (0110 with error ID A501 afterwards). Attributes are demanded as table F.7.2-1 of PS3.4 has it; a type 2 attribute that an N-CREATE leaves
out is taken as empty. 0105, 0106, 0111, 0112, 0120 and 0121 are answered as PS3.7 10.1 has them; N-GET answers {ProcedureStepStatus.OPTIONAL_ATTRIBUTES_NOT_SUPPORTED:04X} where an
attribute that was asked for is not in the step.

### 5.3. Supported DICOM Web Services and Media Storage Services

No DICOM web services. `lenticular export` is a file-set creator (FSC, PS3.10 8): it writes a new file-set into an empty folder, one or more studies at a time; it neither reads nor updates one. The DICOMDIR
(Basic Directory IOD, Explicit VR Little Endian) has PATIENT, STUDY and SERIES records, and one for each instance. A mandatory key that an instance lacks is invented in the record, and only there. File IDs have components of at most eight of the characters of PS3.10 8.2. The instances are the
files that were received, in the transfer syntax of each (table 1-2), so no application profile of PS3.11 is claimed: those for general purpose (STD-GEN) name one syntax or a few, and a medium. What no record can be written of is in a folder
`OTHERS`, outside of the file-set. A physical medium is not written."""


def _configuration() -> str:
    return f"""## 6. Configuration

AE title, ports, limits and policies are settings of the gateway (environment variables; on AWS mostly parameters of the stack), remote
application entities are a list of nodes that is changed at run time, see [the operator's guide](README.md).

**Table 6-1. Configuration parameters**

{gateway_parameters()}

Those of the commands ({COMMANDS}) are variables where a command runs:

{command_parameters()}

**Table 6-2. Remote application entities**: AE title, address (IP address, host name, or CIDR of one that is never sent to), port, what it may
(`store`, `find`, `move`, `commit`, `mpps`), whether instances are sent to it over one association or one by one, and whether it is called by TLS,
with a certificate for its address or for any host."""


def _communication() -> str:
    return f"""## 7. Network Communication Details

### 7.1. Physical Network Interface and IP

TCP over IPv4 or IPv6. On AWS the node is reached by a VPN through an internal load balancer that keeps the peer's address.

### 7.2. Specifications

#### 7.2.1. LENTICULAR Application Entity

**Table 7-1. Association parameters**

{association_parameters()}

**Association acceptance.** All presentation contexts of a request are answered, {MAX_CONTEXTS} at most, of any number of abstract
syntaxes. Of several transfer syntaxes in one context Explicit VR Little Endian is taken if it is there, else the first that is
supported; another policy can be configured. A context is refused with result 1 (user rejection) where the node lacks the
permission of table 5-1, with 3 where the abstract syntax is not in tables 1-1 and 1-3, with 4 where no transfer syntax is supported.

**Table 7-2. Association rejections**

{rejections()}

**Association initiation.** For each C-MOVE, one association to its destination, or one for each instance where the list of nodes says so. Proposed are, for each
SOP class that is sent, the transfer syntaxes the instances are stored in, each in a context of its own, Explicit and Implicit VR Little
Endian, and those of stored lossless forms.

**Role selection** (PS3.7 D.3.3.4). For the storage classes the requestor is granted the SCP role when it asks for it and may `move`: that is C-GET.

**Table 7-3. Extended negotiation** (PS3.4 C.5)

{extended_negotiation()}

Person names are matched without case and accents, several values and the empty value are matched, whatever was negotiated. Not supported: enhanced
multi-frame image conversion, SOP Class Extended Negotiation of other classes (of storage, PS3.4 B.3.1: it is of level 2 without it), SOP Class Common Extended Negotiation.

**Asynchronous operations window**: answered with one operation invoked, one performed. **User identity** (PS3.7 D.3.3.7): accepted, whatever its type, and ignored: not used, not logged, not answered where a response is requested.

#### 7.2.2. LENTICULAR-COMMIT Application Entity

Reports storage commitments. It uses the AE title that the requester had called, proposes the Storage Commitment Push Model SOP class in Explicit and
Implicit VR Little Endian with the SCP role, and is stock pynetdicom; it accepts no associations.

#### 7.2.3. {COMMANDS} Application Entity

The operator's commands (`lenticular --help`), where a person runs them. They call this node, a node of the list, or any other peer, by the AE title of `LENTICULAR_CALLING_AE_TITLE`; each runs by itself, with one association at a
time, and accepts none.

**Table 7-4. Association parameters of {COMMANDS}**

{command_association_parameters()}

**Association initiation.** One association for each echo, query, C-GET and C-MOVE; for files one for as many as have room in {MAX_CONTEXTS} contexts.

**Table 7-5. Presentation contexts proposed by {COMMANDS}**

{proposed_contexts()}

Extended negotiation, asynchronous operations and user identity: none is proposed. TLS: see section 8."""


def _security() -> str:
    return f"""## 8. Security

**Secure transport** (PS3.15 B). TLS on a port of its own, with mutual authentication where the operator names an authority for clients:

{tls_profiles()}

TLS 1.3 is preferred, with OpenSSL's suites for it. Certificate files that are replaced are used without a restart; tasks on AWS read the secret of theirs when they start. Associations that this
node opens (C-MOVE sub-operations, reports of storage commitment) are by TLS of the same profile to each remote application entity that is configured so, and to such a one never without:
its certificate is verified, and its host name unless any host was configured; ours is shown where it is asked for. The operator's commands speak TLS with these, and where they are told to (`--tls`),
by B.12, and verify the peer's certificate and its host name.

**Audit trail** (PS3.15 A.5, A.6). Application Activity, Begin Transferring DICOM Instances, DICOM Instances Accessed, DICOM Instances Transferred, DICOM Study Deleted, Export,
Procedure Record, Query and Security Alert messages in the standard's XML, one for an association (or retrieval, or request) and study; by syslog over TLS where the operator names a repository. The UserID of an
application entity is its AE title, which is what our logs call it, and AlternativeUserID is `AETITLES=` with it; a peer that has not told its AE title goes
by its address. Names of patients are left out, their IDs are in. DICOM Study Deleted, DICOM Instances Accessed and Export are written by the commands that delete, restore and export, Procedure Record for N-CREATE, N-SET and N-GET of performed procedure steps. Storage commitment has no event in the standard, and no message.

**Access** is decided by calling and called AE title, by the address, by the certificate (mutual TLS), and by the permissions of the node. **Attribute
confidentiality** and **digital signatures** (PS3.15 C, E): none is applied; instances are kept as they came."""


def _character_sets() -> str:
    return f"""### Annex B. Character Sets

Data sets are kept as they are, whatever their character set. Queries may be in any of these, alone or combined by code extensions, and are answered
in the character set of the query if it can write the answer, else in ISO_IR 192.

{character_sets()}"""


_HEAD: Final = """# DICOM Conformance Statement

<!-- Written by `make guide` from the tables the node runs on: change those, not this. -->

Product: Lenticular, version {version}. Structure: PS3.2 annex N. What does not apply is said where it would stand."""

_INTRODUCTION: Final = """## 2. Table of Contents

[1 Overview](#1-overview) ·
[3 Introduction](#3-introduction) ·
[4 Implementation Model](#4-implementation-model) ·
[5 Service and Interoperability Description](#5-service-and-interoperability-description) ·
[6 Configuration](#6-configuration) ·
[7 Network Communication Details](#7-network-communication-details) ·
[8 Security](#8-security) ·
[Annexes](#annexes)

## 3. Introduction

**Audience.** Who connects equipment to this node and knows DICOM. **Remarks.** Conformance alone does not guarantee that two products work together: try
each service with each peer, as [the guide](README.md) shows. **Revision history.** The [changelog](../../CHANGELOG.md). **Terms** are those of PS3.2 section 3 and
PS3.4. **References.** The DICOM Standard, current edition."""

_IMPLEMENTATION_MODEL: Final = """## 4. Implementation Model

```
 remote AE ── association ──▶ ( LENTICULAR ) ── PUT ──▶ [ bucket ] ── event ──▶ ( index function ) ──▶ [ table ]
 remote AE ◀── C-STORE ───── (             ) ◀── GET ── [        ]                                    [       ]
 remote AE ◀── N-EVENT-REPORT ── ( LENTICULAR-COMMIT ) ◀── request ── [ bucket ]                      [       ]
```

**LENTICULAR** is the gateway: it accepts associations for all services and opens those of C-MOVE. Several tasks of it may run behind one address; they share all
state. **LENTICULAR-COMMIT** is a function that opens associations to report storage commitments. An instance can be found a second or so after it was
acknowledged: what was stored is safe at once and indexed afterwards.

```
 ( LENTICULAR-CLI ) ── association ──▶ ( LENTICULAR ), remote AE           ( LENTICULAR-CLI ) ◀── GET ── [ bucket ]
 ( LENTICULAR-CLI ) ── C-STORE ──────▶ remote AE, files from a disk        ( LENTICULAR-CLI ) ── file-set ──▶ folder
```

**LENTICULAR-CLI** is each run of one of the operator's commands that speak DICOM: `nodes echo`, `find`, `get`, `send`, `import`. Nothing that a modality or a viewer does depends on it. `export` writes media."""

_ANNEXES: Final = """## Annexes

### Annex A. IODs, Private Attributes, Coded Terminology

No SOP instance is created. Files in the archive have one private attribute group in their file meta information (0002,0100), (0002,0102), for lossless forms; it is never sent
to a peer. No coded terminology is used in data sets; audit messages use the codes of PS3.16 CID 400 to 404."""


def main() -> None:
    """Write the statement."""
    FILE.write_text(statement(), "utf-8")


if __name__ == "__main__":
    main()
