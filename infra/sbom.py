"""Write what this Python and the Debian around it are made of, as a CycloneDX 1.6 document.

`make sbom` gives it to the Python in the gateway's image, so that the list is what is there, not
what a lock says should be. It therefore needs nothing but the standard library.
"""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import quote

_DPKG_STATUS = Path("/var/lib/dpkg/status")


def _python_packages() -> Iterator[dict[str, object]]:
    for each in distributions():
        name, version = each.metadata["Name"], each.version
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version)}"
        yield _component(name, version, purl, each)


def _component(
    name: str, version: str, purl: str, distribution: Distribution | None = None
) -> dict[str, object]:
    component: dict[str, object] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    for licence in distribution.metadata.get_all("License-Expression", []) if distribution else []:
        component["licenses"] = [{"expression": licence}]
    return component


def _debian_packages(status: Path) -> Iterator[dict[str, object]]:
    """Read what is installed from a dpkg status file: packages are paragraphs, fields lines."""
    if not status.is_file():
        return
    for paragraph in status.read_text("utf-8").split("\n\n"):
        lines = (line.partition(": ") for line in paragraph.splitlines() if line[:1].isalpha())
        fields = {name: value for name, _, value in lines}
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            where = f"?arch={fields['Architecture']}"
            yield _component(name, version, f"pkg:deb/debian/{name}@{quote(version)}{where}")


def bill_of_materials(status: Path = _DPKG_STATUS) -> dict[str, object]:
    """Return the document; each package is in it once."""
    found = {str(each["purl"]): each for each in (*_python_packages(), *_debian_packages(status))}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "container", "name": "lenticular-gateway"},
        },
        "components": [found[purl] for purl in sorted(found)],
    }


if __name__ == "__main__":
    json.dump(bill_of_materials(), sys.stdout, indent=2)
    print()
