"""The offline node carries real work: thousands of instances in one go, none of them lost."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.ct_files import ct_file
from tests.peers.node_process import Node, running_node

pytestmark = [pytest.mark.peers, pytest.mark.slow]

INSTANCES = 5_000
ASSOCIATIONS = 4
INSTANCES_OF_A_SERIES = 50
#: moto indexes somewhat less than a hundred a second on two cores.
INDEXED_WITHIN_SECONDS = 600


def _indexed(node: Node) -> tuple[int, int]:
    """Return the number of instance items, and the sum of what the study items count."""
    items = [
        item
        for page in node.client("dynamodb")
        .get_paginator("scan")
        .paginate(TableName=node.table, ProjectionExpression="sk, instances")
        for item in page["Items"]
    ]
    return (
        sum(1 for item in items if item["sk"]["S"].startswith("INSTANCE#")),
        sum(int(item["instances"]["N"]) for item in items if item["sk"]["S"] == "STUDY"),
    )


def test_five_thousand_instances_stored_in_one_go_are_all_indexed(tmp_path: Path) -> None:
    file = ct_file(tmp_path, "1.2.3", "1.2.3.1", "1.2.3.1.1", PatientID="MANY")
    with running_node(tmp_path / "node.log") as node:

        def send(_: int) -> int:
            # storescu invents instances, a series for each 50 and a study for each 5 series.
            statuses = dcmtk.store(
                node,
                file,
                options=(
                    "--repeat", str(INSTANCES // ASSOCIATIONS),
                    "+IR", str(INSTANCES_OF_A_SERIES), "+IS", "5",
                ),
            )  # fmt: skip
            return statuses.count(0)

        with ThreadPoolExecutor(ASSOCIATIONS) as pool:
            acknowledged = sum(pool.map(send, range(ASSOCIATIONS)))
        assert acknowledged == INSTANCES
        assert len(node.object_keys("instances/")) == INSTANCES
        indexed = eventually(
            lambda: _indexed(node),
            until=lambda counts: counts == (INSTANCES, INSTANCES),
            within=INDEXED_WITHIN_SECONDS,
        )
        assert indexed == (INSTANCES, INSTANCES)
        studies = dcmtk.find(node, "STUDY", "StudyInstanceUID", "NumberOfStudyRelatedInstances")
        assert sum(int(study["0020,1208"]) for study in studies) == INSTANCES
