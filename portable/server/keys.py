"""API keys: from the command line, from a file, or made for this run."""

from __future__ import annotations

import secrets
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from portable.errors import UsageError


def read_keys(
    given: Iterable[str], file: Path | None, say: Callable[[str], None]
) -> tuple[str, ...]:
    """All keys. `auto` makes one and says it, once; nothing else ever prints a key.

    Raises UsageError for a file that cannot be read or holds none.
    """
    keys = [_made(say) if key == "auto" else key for key in given]
    return (*keys, *(_kept(file, say) if file else ()))


def _made(say: Callable[[str], None]) -> str:
    key = f"sk-{secrets.token_urlsafe(32)}"
    say(f"The API key of this run: {key}")
    return key


def _kept(file: Path, say: Callable[[str], None]) -> list[str]:
    """One a line; blank lines and those that begin with # are none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"--api-key-file {file}: {reason}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"--api-key-file {file} holds no key", hint="write one a line")
    if sys.platform != "win32" and mode & stat.S_IROTH:
        say(f"Everybody on this machine can read {file}: chmod 600 {file}")
    return keys
