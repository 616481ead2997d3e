"""What S3 is asked with: credentials of a role, which expire."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.custody import _credentials


@pytest.mark.parametrize("minutes_left", [10.5, 16, 31, 360])
def test_credentials_are_asked_for_again_before_they_expire(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, minutes_left: float
) -> None:
    expires = datetime.now(UTC) + timedelta(minutes=minutes_left)
    answer = (
        '{"Version": 1, "AccessKeyId": "ours", "SecretAccessKey": "x", "SessionToken": "x",'
        f' "Expiration": "{expires.isoformat()}"}}'
    )
    (tmp_path / "answer.json").write_text(answer)
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = cat {tmp_path / 'answer.json'}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    given = _credentials()()

    assert given["access_key_id"] == "ours"
    assert given["expires_at"] is not None
    assert given["expires_at"] < expires
