"""What may be told of a failure: its kind and place, and its words only where we know them.

Libraries that read data sets quote values in the messages of their exceptions.
"""

import traceback
from collections.abc import Iterator
from typing import Final

from .errors import LenticularError

#: Exceptions whose messages carry no values of a data set.
_MAY_SPEAK: Final = (LenticularError, OSError)


def described(error: BaseException) -> list[dict[str, object]]:
    """Return type and frames of an exception and of those behind it; what it says if it may."""
    return [_described(each) for each in _chain(error)]


def speakable(error: Exception) -> Exception:
    """Return the exception if it may be written with its words, else one that names its kind.

    For whoever writes down what is raised and is not ours: X-Ray's subsegments, Lambda's runtime.
    """
    return error if isinstance(error, _MAY_SPEAK) else LenticularError(type(error).__qualname__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _described(error: BaseException) -> dict[str, object]:
    frames = [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    described: dict[str, object] = {"type": type(error).__qualname__, "frames": frames}
    if isinstance(error, _MAY_SPEAK):
        described["says"] = str(error)
    return described
