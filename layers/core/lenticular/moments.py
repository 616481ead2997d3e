"""Moments as the bucket, the table and messages have them: texts that sort as the moments do.

`datetime.fromisoformat` reads them.
"""

from datetime import UTC, datetime


def moment(when: datetime) -> str:
    """Write a moment: UTC, always with its six digits of a second, as in RFC 3339."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
