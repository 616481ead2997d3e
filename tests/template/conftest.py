"""The template as it stands, and as CloudFormation gets it after the SAM transform."""

import pytest

from tests.template import sam


@pytest.fixture(scope="session")
def written() -> sam.Template:
    """Return template.yaml as it is written."""
    return sam.read()


@pytest.fixture(scope="session")
def transformed(written: sam.Template) -> sam.Template:
    """Return the CloudFormation that SAM makes of it."""
    return sam.transform(written)
