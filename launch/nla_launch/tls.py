"""The certificate and key of https, checked before anything slow starts."""

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nla_gateway.settings import Tls
from nla_launch.errors import LaunchError

logger = logging.getLogger(__name__)


def load_tls(certificate: str | None, key: str | None) -> Tls | None:
    """Check the files of --tls-cert and --tls-key; None where neither is given.

    Raises:
        LaunchError: one without the other, or files that cannot serve.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise LaunchError("--tls-cert and --tls-key go together: give both")
    _check_key(key)
    _check_certificate(certificate)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise LaunchError(f"--tls-key {key} is not the key of --tls-cert {certificate}") from None
        raise LaunchError(f"--tls-cert {certificate} and --tls-key {key} cannot serve: {error.reason}") from None
    return Tls(certificate=Path(certificate).resolve(), key=Path(key).resolve())


def _check_key(file: str) -> None:
    try:
        load_pem_private_key(_read("--tls-key", file), password=None)
    except TypeError:
        raise LaunchError(
            f"--tls-key {file} is encrypted: give one without a password, readable by you alone"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise LaunchError(f"--tls-key {file} is no private key in PEM") from None


def _check_certificate(file: str) -> None:
    try:
        certificates = x509.load_pem_x509_certificates(_read("--tls-cert", file))
    except ValueError:
        raise LaunchError(f"--tls-cert {file} is no certificate in PEM") from None
    if (end := certificates[0].not_valid_after_utc) < datetime.now(UTC):
        logger.warning("--tls-cert %s is not valid since %s: clients will refuse it", file, f"{end:%Y-%m-%d}")


def _read(flag: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise LaunchError(f"{flag} {file} cannot be read: {error.strerror}") from None
