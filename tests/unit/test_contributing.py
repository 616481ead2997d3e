"""What CONTRIBUTING.md says of the code is so."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CELL = re.compile(r"functions/(\w+)|(gateway|lenticular): ([^;|]*)")
_FOLDERS = {"gateway": ROOT / "gateway", "lenticular": ROOT / "layers/core/lenticular"}


def test_every_module_on_the_ways_to_read_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    ways = text.partition("## Where to begin to read\n")[2].partition("\n## ")[0]
    modules = []
    for function, package, names in _CELL.findall(ways):
        if function:
            modules.append(ROOT / "functions" / function / "app.py")
        modules += [
            _FOLDERS[package] / f"{name.replace('.', '/')}.py"
            for name in re.findall(r"`([\w.]+)`", names)
        ]

    assert len(modules) > 40
    assert [str(path) for path in modules if not path.is_file()] == []
