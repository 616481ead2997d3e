"""What the recorder takes from its layer: a journal that survives the process."""

import json
import os
from pathlib import Path
from typing import Any


def write(entry: dict[str, Any]) -> None:
    """Append an entry to the journal; it is in the file when this returns."""
    with Path(os.environ["JOURNAL"]).open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(entry) + "\n")
