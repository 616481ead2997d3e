"""What the archive holds is counted: by kind, with forms, and without retired originals."""

import pytest

from lenticular.forms import FormStore
from lenticular.holdings import Holding, holdings
from lenticular.indexing import index_objects, rebuild
from lenticular.nodes import Node, NodeTable
from lenticular.transcoding import Transcoder
from lenticular.transcoding_policy import TranscodingPolicy
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import Store, study


def test_bytes_are_those_received_and_those_in_the_bucket(cloud: OfflineCloud) -> None:
    store = Store.in_cloud(cloud)
    index, s3 = store.index(), store.cloud.clients.s3
    instances = study(81, series=2, instances=2) + study(82, series=1, instances=1)
    # Long enough for a deflated form to be worth its while.
    keys = [store.put(**{**each, "StudyDescription": "Thorax " * 300}) for each in instances]
    assert index_objects(store.archive, index, keys) == []
    sizes = [store.archive.head(key, 1).size for key in keys]
    # The first series of each is a CT, the second an MR.
    ct, mr = sizes[0] + sizes[1] + sizes[4], sizes[2] + sizes[3]
    assert holdings(index, ("modality",)) == {
        ("CT",): Holding({"1.2.81", "1.2.82"}, 3, ct, ct),
        ("MR",): Holding({"1.2.81"}, 2, mr, mr),
    }
    policy = TranscodingPolicy.parse("deflate")
    forms = []
    for retires, key in ((True, keys[0]), (False, keys[1])):
        outcome = Transcoder(
            store.archive, FormStore(s3, store.bucket), index, policy, retire_originals=retires
        ).transcode(key)
        assert outcome is not None
        forms.append(outcome.form_bytes)
    for _ in range(2):
        by_all = holdings(index, ("month", "node", "modality"))
        assert {kind[:2] for kind in by_all} == {("2026-01", "CT1")}
        [of_forms] = [holding for holding in by_all.values() if holding.form_bytes]
        assert of_forms.received_bytes - of_forms.stored_bytes == sizes[0] - sum(forms)
        assert of_forms.form_bytes == sum(forms)
        assert of_forms.gained == pytest.approx(1 - sum(forms) / (sizes[0] + sizes[1]))
        rebuild(store.archive, index)


def test_nodes_are_no_holdings_whatever_they_are_called(cloud: OfflineCloud) -> None:
    store = Store.in_cloud(cloud)
    nodes = NodeTable(store.cloud.clients.dynamodb, store.table)
    for aet in ("STUDY", "SERIES#1.2", "INSTANCE#1.2#1"):
        nodes.put(Node(aet, "192.0.2.1", None, frozenset({"store"})))
    assert holdings(store.index(), ("modality",)) == {}
