"""Speed of the internal storage format beside DCMTK and GDCM: `python -m tests.bench.transcoding`.

One core each: CPU seconds, ours of this process without its start, a tool's of its process with it.
The files are those given, or images made here, of 8 MB each: an X-ray's size and a CT's noise.
"""

import argparse
import io
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isnan
from pathlib import Path
from statistics import median
from typing import Final

import imagecodecs
import numpy as np

from lenticular.byte_ranges import InMemory
from lenticular.decoding import native_data_set
from lenticular.image_files import read_image_file
from lenticular.splice import LeftAlone, restored_sha256, write_form
from lenticular.transfer_syntaxes import BY_UID
from tests import images

from .report import table

JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.70"
HTJ2K: Final = "1.2.840.10008.1.2.4.201"
#: Transfer syntax, name, and the tools that write and read it.
SYNTAXES: Final = (
    (JPEG_LOSSLESS, "JPEG Lossless SV1", ("dcmcjpeg",), ("dcmdjpeg",)),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS", ("dcmcjpls",), ("dcmdjpls",)),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000", ("gdcmconv", "-K"), ("gdcmconv", "-w")),
    (HTJ2K, "HTJ2K", (), ()),
    ("1.2.840.10008.1.2.4.202", "HTJ2K RPCL", (), ()),
    ("1.2.840.10008.1.2.5", "RLE", ("dcmcrle",), ("dcmdrle",)),
    ("1.2.840.10008.1.2.1.99", "deflate", ("dcmconv", "+td"), ("dcmconv", "+te")),
)
_MB: Final = 1e6


def form_of(file: bytes, uid: str, *, checked: bool = False) -> bytes:
    """Compress a file, and restore it if it is to be checked."""
    out = io.BytesIO()
    write_form(InMemory(file), BY_UID[uid], out)
    form = out.getvalue()
    if checked:
        restored_sha256(InMemory(form))
    return form


def libjpeg_streams(file: bytes) -> list[bytes | bytearray]:
    """Compress the frames of a file with libjpeg-turbo, which ours was measured against."""
    found = read_image_file(InMemory(file))
    image = found.image
    cells = np.frombuffer(file, f"<u{image.bits_allocated // 8}", offset=found.value_start,
                          count=image.native_bytes * 8 // image.bits_allocated)  # fmt: skip
    return [
        bytes(
            imagecodecs.jpeg8_encode(
                frame, lossless=True, predictor=1, bitspersample=image.bits_allocated
            )
        )
        for frame in cells.reshape(image.frames, image.rows, image.columns)
    ]


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return what work takes of this process's processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def tool_seconds(command: Sequence[str], source: Path, target: Path) -> float:
    """Return what a tool takes of the processor, its start included; nan when it refuses."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, source, target],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return float("nan")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def speed(size: int, seconds: list[float]) -> float:
    """Return the median of MB a second."""
    return size / _MB / median(seconds)


def measure(files: Sequence[bytes], rounds: int, folder: Path) -> str:
    """Measure every syntax in turn, each round all of them, and lay the figures out."""
    size = sum(map(len, files))
    sources = []
    for number, file in enumerate(files):
        path = folder / f"{number}.dcm"
        path.write_bytes(file)
        sources.append(path)
    rows = [
        ("syntax", "ratio", "write", "+ check", "peer", "x", "x checked", "read", "peer", "x"),
    ]
    checked_speed: dict[str, float] = {}
    for uid, name, writer, reader in SYNTAXES:
        forms = [form_of(file, uid) for file in files]
        spent: dict[str, list[float]] = {}
        for _ in range(rounds):
            target = folder / "target.dcm"
            for what, work in {
                "write": lambda uid=uid: [form_of(file, uid) for file in files],
                "checked": lambda uid=uid: [form_of(file, uid, checked=True) for file in files],
                "read": lambda forms=forms: [
                    sum(map(len, native_data_set(InMemory(form)))) for form in forms
                ],
            }.items():
                spent.setdefault(what, []).append(cpu_seconds(work))
            if writer:
                spent.setdefault("writer", []).append(
                    sum(tool_seconds(writer, source, target) for source in sources)
                )
            if reader:
                total = 0.0
                for form in forms:
                    (folder / "form.dcm").write_bytes(form)
                    total += tool_seconds(reader, folder / "form.dcm", target)
                spent.setdefault("reader", []).append(total)
            if uid == JPEG_LOSSLESS:
                spent.setdefault("gdcm", []).append(
                    sum(tool_seconds(("gdcmconv", "-J"), source, target) for source in sources)
                )
                spent.setdefault("libjpeg", []).append(
                    cpu_seconds(lambda: [libjpeg_streams(file) for file in files])
                )
        rate = {what: speed(size, seconds) for what, seconds in spent.items()}
        checked_speed[uid] = rate["checked"]
        peer, reading_peer = rate.get("writer", float("nan")), rate.get("reader", float("nan"))
        rows.append(
            (
                name,
                f"{size / sum(map(len, forms)):.2f}",
                f"{rate['write']:.0f}",
                f"{rate['checked']:.0f}",
                _figure(peer, 0),
                _figure(rate["write"] / peer, 2),
                _figure(rate["checked"] / peer, 2),
                f"{rate['read']:.0f}",
                _figure(reading_peer, 0),
                _figure(rate["read"] / reading_peer, 2),
            )
        )
        if "gdcm" in rate:
            print(f"JPEG Lossless with check, x gdcmconv: {rate['checked'] / rate['gdcm']:.2f}")
            # Ours with the other encoder: what it takes, and what our check takes.
            of_check = 1 / rate["checked"] - 1 / rate["write"]
            checked_speed["libjpeg-turbo"] = 1 / (1 / rate["libjpeg"] + of_check)
    beside_htj2k(checked_speed)
    print(f"two threads, x one: {two_threads(files, rounds):.2f}")
    return table(rows)


def beside_htj2k(checked_speed: Mapping[str, float]) -> None:
    """Say how much faster HTJ2K is than lossless JPEG, of ours and of libjpeg-turbo's encoder."""
    for other in (JPEG_LOSSLESS, "libjpeg-turbo"):
        ratio = checked_speed[HTJ2K] / checked_speed[other]
        print(f"HTJ2K with check, x JPEG Lossless ({other}) with check: {ratio:.2f}")


def _figure(value: float, digits: int) -> str:
    return "-" if isnan(value) else f"{value:.{digits}f}"


def two_threads(files: Sequence[bytes], rounds: int) -> float:
    """Return how much sooner two threads are done than one."""
    gains = []
    jobs = [*files, *files]
    for _ in range(rounds):
        spent = []
        for threads in (1, 2):
            start = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda file: form_of(file, JPEG_LOSSLESS, checked=True), jobs))
            spent.append(time.perf_counter() - start)
        gains.append(spent[0] / spent[1])
    return median(gains)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="native images to measure with")
    parser.add_argument("--images", type=int, default=4, help="how many to make (default 4)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = [path.read_bytes() for path in options.files] or [
        images.smooth("made", 2000 + 48 * number, 2048).file() for number in range(options.images)
    ]
    usable = []
    for file in files:
        try:
            form_of(file, JPEG_LOSSLESS)
        except LeftAlone as left_alone:
            print(f"left out: {left_alone}")
        else:
            usable.append(file)
    megabytes = sum(map(len, usable)) / _MB
    print(f"Internal formats of {len(usable)} files, {megabytes:.0f} MB; MB/s of one core")
    with tempfile.TemporaryDirectory() as folder:
        print(measure(usable, options.rounds, Path(folder)))


if __name__ == "__main__":
    main()
