"""Each message belongs on contexts of its own classes; on others it is refused, nothing is done."""

import socket

import pytest

from gateway.command_set import CommandField, CommandSet, encode
from tests.peers.conftest import Clinic
from tests.peers.dimse import CT, RawPeer, associate_rq, p_data
from tests.peers.pynetdicom_peer import association, store_bytes

pytestmark = pytest.mark.peers

EXPLICIT = "1.2.840.10008.1.2.1"
SOP_CLASS_NOT_SUPPORTED = 0x0122


@pytest.mark.parametrize("abstract_syntax", ["1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.2.1"])
def test_a_c_store_on_a_context_of_another_service_is_refused(
    clinic: Clinic, abstract_syntax: str
) -> None:
    uid = f"1.2.3.55.{len(abstract_syntax)}"
    with association(clinic.node, [(abstract_syntax, EXPLICIT)]) as opened:
        assert store_bytes(opened, abstract_syntax, uid, bytes(8)) == SOP_CLASS_NOT_SUPPORTED
    assert not [key for key in clinic.node.object_keys() if uid in key]


@pytest.mark.parametrize(
    "field", [CommandField.C_FIND_RQ, CommandField.C_MOVE_RQ, CommandField.C_GET_RQ]
)
def test_a_query_on_a_context_of_a_storage_class_is_refused(
    clinic: Clinic, field: CommandField
) -> None:
    node = clinic.node
    command = CommandSet(
        field, message_id=1, affected_sop_class_uid=CT, priority=0, command_data_set_type=0
    )
    if field is CommandField.C_MOVE_RQ:
        command.move_destination = "WORKSTATION"
    identifier = b"\x08\0\x52\0CS\x06\0STUDY "
    with RawPeer(socket.create_connection((node.host, node.port), timeout=10)) as peer:
        peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
        assert peer.read_pdu()[0] == 2
        peer.send(p_data((1, 3, encode(command)), (1, 2, identifier)))
        assert peer.read_response().status == SOP_CLASS_NOT_SUPPORTED
        peer.release()
    assert "service failed" not in node.log.read_text()
