"""What `lenticular cost` reckons with is what an instance asks of AWS, counted on its way there."""

import pytest

from lenticular.cli.bill import measured
from tests.bench import requests


@pytest.mark.peers
@pytest.mark.slow
def test_an_instance_asks_of_aws_what_the_bill_says() -> None:
    assert requests.measured() == measured()
