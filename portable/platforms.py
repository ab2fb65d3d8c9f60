"""What systems do differently, each difference with its twins; imports nothing of ours."""

from __future__ import annotations

import errno
import io
import re
import socket
import subprocess
import sys
from pathlib import PureWindowsPath
from typing import Any

_PORTS = {f"{kind}{number}" for kind in ("COM", "LPT") for number in range(1, 10)}
_RESERVED = {"CON", "PRN", "AUX", "NUL", *_PORTS}
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\0-\x1f]')


def own_group() -> dict[str, Any]:
    """Arguments with which `subprocess` and asyncio keep Ctrl-C, meant for us, from a child."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def listen_alone(sock: socket.socket) -> None:
    """Before `bind`: keeps others from the port, and takes it though old connections linger."""
    if sys.platform == "win32":  # SO_REUSEADDR would let two servers share a port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def reader_left(error: OSError) -> bool:
    """Whether a write failed because nobody reads the pipe any more."""
    if isinstance(error, BrokenPipeError):
        return True
    # Windows' C library reports a broken pipe as an invalid argument.
    return sys.platform == "win32" and error.errno == errno.EINVAL


def is_reserved(name: str) -> bool:
    """Whether Windows takes a file of this name for a device: `nul.gguf` is one."""
    return PureWindowsPath(name).name.partition(".")[0].rstrip(" ").upper() in _RESERVED


def is_file_name(name: str) -> bool:
    """Whether this system can have a file of this name. A colon would name a stream of a file."""
    if sys.platform != "win32":
        return True
    return not (_FORBIDDEN.search(name) or name.endswith((" ", ".")) or is_reserved(name))


def tolerate_any_text() -> None:
    """What is printed never fails for its characters.

    A terminal that cannot show one gets a ? for it. Windows would write files and pipes in its old
    code page: there it is UTF-8, as elsewhere.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if sys.platform == "win32" and not stream.isatty():
                stream.reconfigure(encoding="utf-8")
            stream.reconfigure(errors="replace")
