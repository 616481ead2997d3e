"""When a certificate ends, read from the file: a metric warns before peers are turned away."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from gateway.__main__ import gauges
from gateway.tls import expiry
from lenticular.settings import GatewaySettings
from tests.peers.pki import Authority


def write(
    path: Path, ends: datetime, *, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> Path:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a name " * 9)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    "ends",
    [
        datetime(2026, 11, 22, 9, 25, 1, tzinfo=UTC),
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        # From 2050 on with four digits of the year, RFC 5280 4.1.2.5.
        datetime(2050, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
)
@pytest.mark.parametrize("use_rsa", [False, True])
def test_the_end_is_read_as_it_was_written(tmp_path: Path, ends: datetime, use_rsa: bool) -> None:
    key = (
        rsa.generate_private_key(65537, 2048)
        if use_rsa
        else ec.generate_private_key(ec.SECP256R1())
    )
    assert expiry(write(tmp_path / "node.pem", ends, key=key)) == ends


def test_of_a_chain_the_first_certificate_is_ours(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    node = authority.issue("node", days=3)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(node.certificate.read_bytes() + authority.certificate.read_bytes())
    assert expiry(chain) == expiry(node.certificate) < expiry(authority.certificate)


def test_what_is_no_certificate_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.write_text("")
    with pytest.raises(ValueError, match="not found"):
        expiry(path)


def test_a_certificate_that_is_cut_off_is_said_to_be_so(tmp_path: Path) -> None:
    node = Authority.create(tmp_path).issue("node")
    begin, *body, end = node.certificate.read_text().splitlines()
    node.certificate.write_text("\n".join((begin, *body[:4], end)))
    with pytest.raises(ValueError, match="cut off"):
        expiry(node.certificate)


def test_days_that_are_left_are_told_and_a_file_being_replaced_is_no_news(tmp_path: Path) -> None:
    node = Authority.create(tmp_path).issue("node", days=3)
    settings = GatewaySettings(bucket="bucket", table="table", tls_certificate=node.certificate)
    left = gauges(settings, None, lambda: 0)["CertificateDaysLeft"]
    assert timedelta(days=2.9) < timedelta(days=left) <= timedelta(days=3)
    node.certificate.unlink()
    assert gauges(settings, None, lambda: 0) == {}
    assert gauges(GatewaySettings(bucket="bucket", table="table"), None, lambda: 0) == {}
