"""The queue of originals that are to be transcoded: a message names one object."""

import json
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: What SQS takes in one request.
_MESSAGES_PER_CALL: Final = 10


def ask_for_transcoding(sqs: "SQSClient", queue_url: str, keys: Iterable[str]) -> list[str]:
    """Send a message for each object; return the keys whose message SQS did not take."""
    failed: list[str] = []
    waiting = iter(dict.fromkeys(keys))
    while some := list(islice(waiting, _MESSAGES_PER_CALL)):
        try:
            answer = sqs.send_message_batch(
                QueueUrl=queue_url,
                Entries=[
                    {"Id": str(number), "MessageBody": json.dumps({"object_key": key})}
                    for number, key in enumerate(some)
                ],
            )
        except (ClientError, BotoCoreError):
            failed += some
        else:
            failed += [some[int(each["Id"])] for each in answer.get("Failed", [])]
    return failed


def object_key(message_body: str) -> str:
    """Return the key that a message names, or raise `ValueError`."""
    body = json.loads(message_body)
    if not isinstance(body, dict) or not isinstance(body.get("object_key"), str):
        raise ValueError("the message names no object to transcode")  # noqa: TRY004 - of a wrong form
    return str(body["object_key"])
