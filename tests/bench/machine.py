"""What the figures were measured on: without it they say nothing."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from .receivers import found

_VERSIONED: Final = (("storescp", "DCMTK"), ("Orthanc", "Orthanc"))
_PACKAGES: Final = ("pynetdicom", "boto3", "obstore", "moto")
_VERSION_SECONDS: Final = 20


def machine() -> str:
    """Describe the processor, its load of the last minute, and the system in one line."""
    one_minute, *_ = os.getloadavg()
    return (
        f"{os.cpu_count()} cores of {_processor()}, load {one_minute:.1f}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def versions() -> str:
    """Name the versions of everything that is measured, in one line."""
    programs = [
        f"{name} {_version_of(path)}" for program, name in _VERSIONED if (path := found(program))
    ]
    return ", ".join([*programs, *(f"{package} {version(package)}" for package in _PACKAGES)])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except FileNotFoundError:
        pass
    return platform.processor() or platform.machine()


def _version_of(path: str) -> str:
    printed = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False
    ).stdout
    return _first_number(printed.split())


def _first_number(words: Sequence[str]) -> str:
    """Return the first word that is a version: 1.10.1, v3.6.7."""
    for word in words:
        if word.removeprefix("v")[:1].isdigit():
            return word.removeprefix("v")
    return "of unknown version"
