"""The template as it stands, and as CloudFormation gets it after the SAM transform."""

import pytest

from infra.local.template import read_template
from tests.template import sam


@pytest.fixture(scope="session")
def written() -> sam.Template:
    """Return template.yaml as it is written."""
    return sam.read()


@pytest.fixture(scope="session")
def gateway() -> sam.Template:
    """Return the nested template of the gateway."""
    return sam.Template(read_template(sam.ROOT / "infra/gateway.yaml"))


@pytest.fixture(scope="session")
def network() -> sam.Template:
    """Return the nested template of the network."""
    return sam.Template(read_template(sam.ROOT / "infra/network.yaml"))


@pytest.fixture(scope="session")
def transformed(written: sam.Template) -> sam.Template:
    """Return the CloudFormation that SAM makes of it."""
    return sam.transform(written)
