"""What a command's exit status says; scripts rely on it, and `lenticular --help` prints it."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from lenticular.errors import InvalidIdentifier, LenticularError, OperatorError, StoreUnavailable


class ExitCode(IntEnum):
    """The exit statuses of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PEER = 3
    FINDINGS = 4
    INTERRUPTED = 130


MEANING: Final = {
    ExitCode.DONE: "it is done",
    ExitCode.FAILED: "the bucket, the table, a queue or a disk failed: run it again",
    ExitCode.USAGE: "something that was typed, or is set, must be changed",
    ExitCode.PEER: "a DICOM peer could not be reached, refused or failed",
    ExitCode.FINDINGS: "done, but not all is well: what is not is printed",
    ExitCode.INTERRUPTED: "interrupted; what can be resumed says how",
}


class PeerFailed(LenticularError):
    """A DICOM peer could not be reached, refused, or answered with a failure."""


class NotAllIsWell(LenticularError):
    """A command went to its end, and some of what it looked at or did is not as it should be."""


_NONE: Final = (
    "there are no AWS credentials here: `aws configure`, AWS_PROFILE or a role gives them"
)
_OLD: Final = "the AWS credentials have expired: sign in again"
_FALSE: Final = "AWS does not know these credentials: sign in again, or see whose they are"
_FORBIDDEN: Final = (
    "these AWS credentials may not do that: `aws sts get-caller-identity` says whose"
)
_BUCKET: Final = "AWS has no such bucket: LENTICULAR_BUCKET is BucketName of the stack's outputs"
_REGION: Final = "the bucket is in another region than AWS_DEFAULT_REGION says"
_TABLE: Final = (
    "there is no such table in this region: look at LENTICULAR_TABLE, AWS_DEFAULT_REGION"
)
_FORM: Final = "AWS has nothing of such a name: look at LENTICULAR_BUCKET and LENTICULAR_TABLE"

#: What a person has to change, where AWS would refuse another try as well, by its error code.
_TO_BE_CHANGED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("NoCredentialsError", "PartialCredentialsError"), _NONE),
    **dict.fromkeys(("CredentialRetrievalError", "SSOTokenLoadError"), _NONE),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _OLD),
    **dict.fromkeys(("TokenRetrievalError", "UnauthorizedSSOTokenError"), _OLD),
    **dict.fromkeys(("InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken"), _FALSE),
    **dict.fromkeys(("UnrecognizedClientException", "SignatureDoesNotMatch"), _FALSE),
    **dict.fromkeys(("InvalidSignatureException", "AuthFailure"), _FALSE),
    **dict.fromkeys(("AccessDenied", "AccessDeniedException", "403"), _FORBIDDEN),
    **dict.fromkeys(("NoSuchBucket", "InvalidBucketName"), _BUCKET),
    **dict.fromkeys(("PermanentRedirect", "AuthorizationHeaderMalformed", "301"), _REGION),
    **dict.fromkeys(("IllegalLocationConstraintException",), _REGION),
    "ResourceNotFoundException": _TABLE,
    "ParamValidationError": _FORM,
}


def to_be_changed(error: LenticularError) -> str | None:
    """Say what to change before another try, where it is AWS that refused and it would again."""
    if not (isinstance(error, StoreUnavailable) and isinstance(error.__cause__, Exception)):
        return None
    # What raised it has loaded boto3, which the help of a command is not to wait for.
    from lenticular.aws import error_code

    return _TO_BE_CHANGED.get(error_code(error.__cause__))


def exit_code(error: LenticularError) -> ExitCode:
    """Return the status of a command that ends with an error."""
    if to_be_changed(error):
        return ExitCode.USAGE
    match error:
        case OperatorError() | InvalidIdentifier():
            return ExitCode.USAGE
        case PeerFailed():
            return ExitCode.PEER
        case NotAllIsWell():
            return ExitCode.FINDINGS
        case _:
            return ExitCode.FAILED
