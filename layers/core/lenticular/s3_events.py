"""S3 event notifications, as SQS delivers them. AWS: "Event message structure"."""

import json
from urllib.parse import unquote_plus


def object_keys(message_body: str) -> list[str]:
    """Return the keys of the objects a notification says were created.

    Empty for the test event S3 sends when a notification is configured. Keys are URL-encoded in
    events, with + for a space.

    Raises:
        ValueError: the body is not an S3 event.
    """
    body = json.loads(message_body)
    if not isinstance(body, dict):
        raise ValueError("the message is not an S3 event")  # noqa: TRY004 - one error for a body of the wrong form
    if body.get("Event") == "s3:TestEvent":
        return []
    try:
        return [
            unquote_plus(record["s3"]["object"]["key"])
            for record in body["Records"]
            if record["eventName"].startswith("ObjectCreated:")
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("the message is not an S3 event") from error
