"""Gateways that fail, and what is in the bucket in spite of it."""

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cloud.deadline import eventually
from tests.peers.gateway_process import Gateway
from tests.peers.instances import Instance, study
from tests.peers.storing import storing

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700

KIB: Final = 1 << 10
MIB: Final = 1 << 20
#: The least the setting allows: what is longer goes to the disk while it arrives.
MEMORY_BYTES: Final = 64 * KIB
SHORT: Final = 32 * KIB
LONG: Final = 256 * KIB
#: Room for one long instance and not for two.
DISK: Final = 384 * KIB

#: S3 is asked once, so that a test need not wait for what is tried again in vain.
AT_ONCE: Final = {"LENTICULAR_RETRY_SECONDS": "0"}
SMALL_MEMORY: Final = {"LENTICULAR_MEMORY_BYTES": str(MEMORY_BYTES)}

#: What a gateway with a spool says once of an S3 that takes nothing.
S3_IS_AWAY: Final = "the spool cannot be uploaded"

StartGateway = Callable[..., Gateway]


def in_bucket(gateway: Gateway, prefix: str = "") -> dict[str, str]:
    """Read the bucket: the SHA-256 of each object's bytes, by key."""
    client = gateway.client("s3")
    found = {}
    for key in gateway.object_keys(prefix):
        digest = hashlib.sha256()
        for chunk in client.get_object(Bucket=gateway.bucket, Key=key)["Body"].iter_chunks(MIB):
            digest.update(chunk)
        found[key] = digest.hexdigest()
    return found


def versions_in_bucket(gateway: Gateway) -> Counter[str]:
    """Count the versions of each object; nothing may ever be deleted."""
    pages = (
        gateway.client("s3").get_paginator("list_object_versions").paginate(Bucket=gateway.bucket)
    )
    found: Counter[str] = Counter()
    for page in pages:
        assert not page.get("DeleteMarkers")
        found.update(version["Key"] for version in page.get("Versions", []))
    return found


def wait_for_keys(gateway: Gateway, prefix: str, keys: Iterable[str]) -> None:
    """Wait until the bucket holds these objects, and perhaps more, under a prefix."""
    eventually(lambda: set(gateway.object_keys(prefix)), until=set(keys).issubset)


def kept(instances: Iterable[Instance]) -> dict[str, str]:
    """Return what `in_bucket` finds when exactly these instances are there, byte for byte."""
    return {instance.key: instance.kept_sha256 for instance in instances}


def once(instances: Iterable[Instance]) -> Counter[str]:
    """Return what `versions_in_bucket` finds when each of these instances was written once."""
    return Counter(instance.key for instance in instances)


def complaints(gateway: Gateway) -> list[tuple[str, str, object]]:
    """Return level, message and SOP Instance UID of each line above INFO."""
    return [
        (line["level"], line["message"], line.get("sop_instance_uid"))
        for line in gateway.lines()
        if line["level"] not in ("DEBUG", "INFO")
    ]


def refused(*instances: Instance) -> list[tuple[str, str, object]]:
    """Return what `complaints` finds when these instances were refused and no more."""
    return [("WARNING", "instance not stored", instance.sop_instance_uid) for instance in instances]


def kill_while_clients_send(
    start: StartGateway, folder: Path, moments: Sequence[int], *, batch: int, associations: int
) -> None:
    """Kill one gateway after another, each when its clients have heard so many answers."""
    gateway = start(AT_ONCE)
    everything: list[Instance] = []
    for kill, moment in enumerate(moments):
        instances = study(folder / str(kill), associations * batch)
        batches = [instances[first::associations] for first in range(associations)]
        with storing(gateway, *batches) as clients:
            clients.wait_for_answers(moment)
            gateway.kill()
            clients.finish()
        heard = [one for one in instances if one.sop_instance_uid in clients.acknowledged()]
        assert len(heard) >= moment
        found = in_bucket(gateway, f"instances/{instances[0].study_instance_uid}/")
        assert {one.key: found.get(one.key) for one in heard} == kept(heard), f"kill {kill}"
        # Who heard nothing sends again, to the gateway that takes over.
        gateway = start(AT_ONCE)
        with storing(gateway, *batches) as clients:
            assert clients.finish() == [SUCCESS] * len(instances), f"after kill {kill}"
        assert complaints(gateway) == []
        everything += instances
    wait_for_keys(gateway, "", {one.key for one in everything})
    assert in_bucket(gateway) == kept(everything)
    assert versions_in_bucket(gateway) == once(everything)


def kill_gateways_with_a_spool(
    start: StartGateway, folder: Path, moments: Sequence[int], settings: Mapping[str, str]
) -> None:
    """Kill gateways with one spool while clients send 40 instances to each, every fourth long.

    Each ends when its clients have heard so many answers; every third heir right after its ready
    line, when it takes journals over. Of several workers every other kill is for one of them alone.
    Only who heard nothing sends again, and nothing is waited for before the last kill: what the
    bucket holds in the end came through the journals of the killed.
    """
    several = "LENTICULAR_WORKERS" in settings
    gateway = start(settings)
    shorts: list[Instance] = []
    longs: list[Instance] = []
    for kill, moment in enumerate(moments):
        short = study(folder / f"short{kill}", 30)
        long = study(folder / f"long{kill}", 10, size=LONG)
        shorts, longs = shorts + short, longs + long
        batches = [short[first::5] + long[first::5] for first in range(5)]
        for number, batch in enumerate(batches):
            # A long one first, last or in between.
            batch.insert(number, batch.pop())
        with storing(gateway, *batches) as clients:
            clients.wait_for_answers(moment)
            if several and kill % 2:
                os.kill(gateway.workers()[0], signal.SIGKILL)
            else:
                gateway.kill()
            clients.finish()
        heard = clients.acknowledged()
        assert len(heard) >= moment
        if gateway.process.poll() is not None:
            gateway = start(settings)
            if kill % 3 == 1:
                gateway.kill()
                gateway = start(settings)
        rest = [[one for one in batch if one.sop_instance_uid not in heard] for batch in batches]
        unheard = list(filter(None, rest))
        with storing(gateway, *unheard) as clients:
            assert clients.finish() == [SUCCESS] * sum(map(len, unheard)), f"after kill {kill}"
        told = {message for _, message, _ in complaints(gateway)}
        assert told <= {S3_IS_AWAY, "worker ended"} if several else told <= {S3_IS_AWAY}
    gateway.kill()
    gateway = start(settings)
    everything = kept([*shorts, *longs])
    wait_for_keys(gateway, "", everything.keys())
    assert in_bucket(gateway) == everything
    # A long one that a killed gateway completes beside its heir may become a second version.
    versions = versions_in_bucket(gateway)
    assert {key: versions[key] for key in kept(shorts)} == once(shorts)


def unfinished_uploads(gateway: Gateway) -> list[str]:
    """Return the keys of uploads in parts that were neither completed nor aborted."""
    uploads = gateway.client("s3").list_multipart_uploads(Bucket=gateway.bucket)
    return [upload["Key"] for upload in uploads.get("Uploads", [])]
