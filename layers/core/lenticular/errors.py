"""What can go wrong, by whose fault it is.

`SenderError`s are the peer's: never retried by us, the peer is told what is wrong.
`StoreUnavailable` is ours or AWS's: retried, alarmed. `OperatorError`s are for the person at the
keyboard: one sentence, no traceback. No message of any of them carries patient data.
"""


class LenticularError(Exception):
    """Any failure this project names."""


class SenderError(LenticularError):
    """The peer sent something that cannot be taken as it is."""


class CannotUnderstand(SenderError):
    """The data set cannot be read as its negotiated transfer syntax."""


class InvalidIdentifier(SenderError):
    """A query identifier breaks the rules of its information model (PS3.4 C.4.1.1.3, C.4.2.2.1)."""


class TransactionUidInUse(SenderError):
    """The Transaction UID of a storage commitment stands for another request, PS3.4 J.3.2.1."""


class StoreUnavailable(LenticularError):
    """The bucket, the table or the scratch disk refused, throttled or timed out: try again."""


class ItemRefused(LenticularError):
    """The table will never take an item as it is: too large, or a key too long."""


class InstanceMissing(LenticularError):
    """The index names an object that the bucket does not hold."""


class OperatorError(LenticularError):
    """A person's input is wrong; the message says what to change."""


class SettingsError(OperatorError):
    """One or more settings are missing or wrong; `problems` holds a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        """Keep every problem, so that one look is enough to mend them all."""
        super().__init__("\n".join(problems))
        self.problems = problems


class NodesFileError(OperatorError):
    """The nodes file cannot be used; the message names the entry and what to write instead."""


class CommitmentUnknown(OperatorError):
    """There is no such transaction of storage commitment."""
