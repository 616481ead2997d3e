"""A multi-frame of half a gigabyte passes through the transcoder in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import images
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import ROOT, Store

FRAMES = 1000
MOST_BYTES = 150 << 20

TRANSCODE = """
import json, re, sys, time
from pathlib import Path
from lenticular.archive import Archive
from lenticular.aws import dynamodb_client, s3_client
from lenticular.forms import FormStore
from lenticular.index import Index
from lenticular.transcoding import Transcoder
from lenticular.transcoding_policy import TranscodingPolicy
bucket, table, key, policy = sys.argv[1:]
s3 = s3_client()
transcoder = Transcoder(Archive(s3, bucket), FormStore(s3, bucket), Index(dynamodb_client(), table),
                        TranscodingPolicy.parse(policy))
start = time.perf_counter()
outcome = transcoder.transcode(key)
# Of getrusage, exec keeps what the process was before it, which is this test.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({
    "form_bytes": outcome.form_bytes,
    "reason": outcome.reason,
    "seconds": time.perf_counter() - start,
    "peak_bytes": int(peak[1]) << 10,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["jpeg-lossless", "htj2k"])
def test_half_a_gigabyte_takes_little_memory(
    cloud: OfflineCloud, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.in_cloud(cloud)
    few = images.smooth("large", 512, 512, frames=4)
    large = images.Image(
        "large", 16, 12, few.pixels * (FRAMES // 4), rows=512, columns=512, frames=FRAMES
    )
    key = large.key()
    store.put_bytes(key, large.file())
    done = subprocess.run(
        [sys.executable, "-c", TRANSCODE, store.bucket, store.table, key, policy],
        env={
            **os.environ,
            **store.cloud.environment,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, Path(ROOT) / "layers/core"))),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{policy}: {measured}")
    assert measured["reason"] is None
    assert 0 < measured["form_bytes"] < len(large.pixels)
    assert measured["peak_bytes"] <= MOST_BYTES
