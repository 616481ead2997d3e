"""Log lines: one JSON object each, on stderr, without patient data.

Messages are constant and the facts are fields (`extra=`). Of an exception is written what
`lenticular.failures` says may be.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from lenticular.failures import described

#: Libraries whose log lines and warnings quote values of data sets.
_SILENCED: Final = ("pydicom", "pynetdicom", "py.warnings")
_OWN_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, **facts: object) -> None:
        """Put `facts` on each line."""
        super().__init__()
        self._facts = facts

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, logger, message, the record's extra fields and its exception."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._facts,
        }
        line.update(
            (name, value) for name, value in vars(record).items() if name not in _OWN_FIELDS
        )
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = described(record.exc_info[1])
        return json.dumps(line, default=str)


#: Libraries that tell at INFO how they were configured.
_TALKATIVE: Final = ("boto3", "botocore", "urllib3")


def configure_logging(level: str, **facts: object) -> None:
    """Send every logger's lines as JSON to stderr, `level` and above, with `facts` on each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(**facts))
    logging.captureWarnings(capture=True)
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
