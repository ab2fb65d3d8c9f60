"""The certificate that the server shows, read and checked before anything is loaded."""

from __future__ import annotations

import ssl
from pathlib import Path

from portable.errors import UsageError
from portable.server.config import ServerConfig


def context(config: ServerConfig) -> ssl.SSLContext | None:
    """None for plain HTTP. Raises UsageError for files that are missing, wrong or no pair."""
    certificate, key = config.ssl_certfile, config.ssl_keyfile
    if certificate is None:
        if key is None:
            return None
        raise UsageError("--ssl-keyfile needs --ssl-certfile beside it")
    for flag, file in (("--ssl-certfile", certificate), ("--ssl-keyfile", key)):
        if file:
            _check_readable(flag, file)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        made.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        raise _explained(error, certificate, key) from None
    return made


def _check_readable(flag: str, file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise UsageError(f"{flag} {file}: {error.strerror}") from None


def _refuse_password() -> str:
    """OpenSSL would ask at the terminal, where nobody may be."""
    raise UsageError(
        "the key of the certificate is encrypted", hint="openssl pkey -in KEY -out PLAINKEY"
    )


def _explained(error: ssl.SSLError, certificate: Path, key: Path | None) -> UsageError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return UsageError(f"{key or certificate} is not the key of {certificate}")
    where = f"{certificate} and {key}" if key else f"{certificate}"
    hint = "PEM files: the certificate, and after it those that it leads back to; and its key"
    return UsageError(f"{where} are no certificate with its key", hint=hint)
