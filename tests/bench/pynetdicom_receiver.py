"""A C-STORE receiver as most people write it: stock pynetdicom, raw bytes PUT by boto3.

    python -m tests.bench.pynetdicom_receiver BUCKET

Nothing is decoded, checked, hashed or named by study; it is the least such a program can do.
"""

import json
import sys
import threading
from typing import Final

import boto3
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event

_AET: Final = "PYNETDICOM"
_MAX_PDU_BYTES: Final = 128 * 1024
_MAX_ASSOCIATIONS: Final = 128


def main() -> None:
    """Serve on a free port of this machine until the process is ended."""
    bucket = sys.argv[1]
    s3 = boto3.client("s3")

    def store(event: Event) -> int:
        key = f"instances/{event.request.AffectedSOPInstanceUID}.dcm"  # type: ignore[union-attr]
        s3.put_object(Bucket=bucket, Key=key, Body=event.encoded_dataset())
        return 0x0000

    ae = AE(ae_title=_AET)
    ae.supported_contexts = AllStoragePresentationContexts
    ae.maximum_pdu_size = _MAX_PDU_BYTES
    ae.maximum_associations = _MAX_ASSOCIATIONS
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    port = server.server_address[1]
    print(json.dumps({"event": "ready", "aet": _AET, "port": port}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
