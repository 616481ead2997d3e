"""C-STORE belongs on contexts of storage classes; on others it is refused and nothing is kept."""

import pytest

from tests.peers.conftest import Clinic
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
