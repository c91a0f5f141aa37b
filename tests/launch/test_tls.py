"""Certificates and keys that cannot serve are told so in one line, before anything starts."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from nla_launch.errors import LaunchError
from nla_launch.tls import load_tls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    for name, end in (("mine", None), ("other", None), ("old", datetime(2020, 1, 1, tzinfo=UTC))):
        issued = authority.issue_cert("lab.org", not_after=end, not_before=datetime(2019, 1, 1, tzinfo=UTC))
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
    key = load_pem_private_key((folder / "mine.key").read_bytes(), password=None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "locked.key").write_bytes(locked)
    (folder / "empty").write_bytes(b"")
    return folder


def load(folder: Path, certificate: str, key: str) -> None:
    load_tls(str(folder / certificate), str(folder / key))


def test_a_pair_is_taken_and_none_is_none(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(folder, "mine.pem", "mine.key")
    assert not caplog.records
    assert load_tls(None, None) is None


@pytest.mark.parametrize(
    ("certificate", "key", "line"),
    [
        ("nope.pem", "mine.key", "nope.pem cannot be read: No such file"),
        ("mine.pem", "nope.key", "nope.key cannot be read: No such file"),
        ("mine.pem", "", "cannot be read: Is a directory"),
        ("empty", "mine.key", "empty is no certificate in PEM"),
        ("mine.key", "mine.key", "mine.key is no certificate in PEM"),
        ("mine.pem", "mine.pem", "mine.pem is no private key in PEM"),
        ("mine.pem", "other.key", "other.key is not the key of --tls-cert"),
        ("mine.pem", "locked.key", "locked.key is encrypted"),
    ],
)
def test_files_that_cannot_serve(folder: Path, certificate: str, key: str, line: str) -> None:
    with pytest.raises(LaunchError, match=line) as caught:
        load(folder, certificate, key)
    assert "\n" not in str(caught.value)


def test_one_without_the_other(folder: Path) -> None:
    with pytest.raises(LaunchError, match="give both"):
        load_tls(str(folder / "mine.pem"), None)


def test_a_certificate_that_has_run_out_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(folder, "old.pem", "old.key")
    assert "is not valid since 2020-01-01" in caplog.text
