"""A multi-frame of half a gigabyte passes through the transcode function in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenticular.archive import TRANSCODED, FormKey
from lenticular.indexing import index_objects
from tests import images
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import ROOT, Store

FRAMES = 1000
MOST_BYTES = 150 << 20

#: One call of the function, in a process that has done nothing else.
CALL = """
import json, re, sys, time
from pathlib import Path
import app
class Context:
    function_name = "transcode"
    memory_limit_in_mb = 1769
    invoked_function_arn = "arn"
    aws_request_id = "request"
record = {"messageId": "m1", "body": json.dumps({"object_key": sys.argv[1]}),
          "eventSource": "aws:sqs"}
start = time.process_time()
answer = app.handler({"Records": [record]}, Context())
# Of getrusage, exec keeps what the process was before it, which is this test.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({
    "failed": answer["batchItemFailures"],
    "cpu_seconds": time.process_time() - start,
    "peak_bytes": int(peak[1]) << 10,
}), file=sys.stderr)
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
    assert index_objects(store.archive, store.index(), [key]) == []
    folders = (Path(ROOT) / "functions/transcode", Path(ROOT) / "layers/core")
    done = subprocess.run(
        [sys.executable, "-c", CALL, key],
        env={
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            **store.cloud.environment,
            "LENTICULAR_BUCKET": store.bucket,
            "LENTICULAR_TABLE": store.table,
            "LENTICULAR_TRANSCODE": policy,
            "LENTICULAR_FORMS_CLASS": "STANDARD",
            "POWERTOOLS_SERVICE_NAME": "lenticular-transcode",
            "POWERTOOLS_METRICS_NAMESPACE": "Lenticular",
            # As on Lambda, but for a trace, which nobody would take.
            "LAMBDA_TASK_ROOT": "/var/task",
            "_X_AMZN_TRACE_ID": "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stderr.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{policy}: {measured}")
    assert measured["failed"] == []
    (form,) = store.archive.keys(TRANSCODED)
    assert FormKey.parse(form)
    assert measured["peak_bytes"] <= MOST_BYTES
