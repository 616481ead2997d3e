"""TLS by the profiles of PS3.15 B, the same for who accepts associations and who opens them."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .settings import TlsProfile


@dataclass(frozen=True, slots=True)
class Rules:
    """What a profile demands; `suites` are those of TLS 1.2, in OpenSSL's words."""

    minimum_version: ssl.TLSVersion
    suites: str


# Both refuse what is older than TLS 1.2 whatever else a peer offers (B.10 and B.11, now retired,
# were called non-downgrading for it) and prefer TLS 1.3. Python leaves the suites of TLS 1.3 to
# OpenSSL, whose defaults (AES-GCM of 128 and 256 bits, ChaCha20) are all on the profiles' lists.
# Level 2 is OpenSSL's name for the profiles' key lengths: RSA from 2048 bits, elliptic curves from
# 224, no SHA-1 in certificates. Key exchange is ECDHE alone: RFC 9325 4.1 advises against DHE, and
# B.13 wants its key length set explicitly.
PROFILES: Final[Mapping[TlsProfile, Rules]] = {
    # B.12. The last two are for modalities whose TLS 1.2 is older than AEAD; nobody else gets them.
    "bcp195": Rules(
        ssl.TLSVersion.TLSv1_2,
        "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES+SHA384:ECDHE+AES+SHA256:@SECLEVEL=2",
    ),
    # B.13, and its predecessor B.11.
    "bcp195-extended": Rules(
        ssl.TLSVersion.TLSv1_2,
        "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!AESCCM8:@SECLEVEL=2",
    ),
}


def keep_to(context: ssl.SSLContext, profile: TlsProfile) -> None:
    """Let a context speak as a profile demands, and no other way."""
    rules = PROFILES[profile]
    context.minimum_version = rules.minimum_version
    context.set_ciphers(rules.suites)
    # RFC 9325 3.3 and 3.5.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def why(error: OSError) -> str:
    """Say in OpenSSL's or the system's words what went wrong, without values of certificates."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or error.strerror or "TLS failed").replace("_", " ").lower()
    return error.strerror or type(error).__name__
