"""How fast a long command goes, and what it shows of it."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import click

#: The option of commands that a busy peer may want slowed down.
rate_option: Final = click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Instances a second at most, on average.",
)


class Pace:
    """Keeps work at or below a rate, on average since the start."""

    def __init__(
        self,
        per_second: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Allow so many units a second; None sets no limit."""
        self._per_second = per_second
        self._clock = clock
        self._sleep = sleep
        self._began = clock()
        self._units = 0

    def spend(self, units: int) -> None:
        """Note units of work, and wait until they are within the rate."""
        self._units += units
        if self._per_second is not None:
            due = self._began + self._units / self._per_second
            if (ahead := due - self._clock()) > 0:
                self._sleep(ahead)


def progress_bar(length: int, label: str) -> AbstractContextManager[Any]:
    """Show how far a command is on stderr, and, where that is no terminal, nothing."""
    return click.progressbar(
        length=length,
        label=label,
        show_pos=True,
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    )
