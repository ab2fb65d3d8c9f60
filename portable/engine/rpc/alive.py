"""Lets the system end a connection whose other machine has gone without a word."""

from __future__ import annotations

import contextlib
import os
import socket

import psutil

SECONDS = 60


def keep_asking(ports: set[int]) -> None:
    """For this process's own connections with these ports, at either end."""
    for each in psutil.Process().net_connections("tcp4"):
        if each.raddr and each.fd >= 0 and {each.laddr.port, each.raddr.port} & ports:
            # A copy of the descriptor: closing it leaves ggml's own open.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(each.fd)) as sock:
                _end_if_gone(sock)


def _end_if_gone(sock: socket.socket) -> None:
    """What is sent and not taken ends it, and so does silence that no probe is answered in."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", SECONDS // 2),
        ("TCP_KEEPINTVL", SECONDS // 6),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", SECONDS * 1000),
    ):
        if option := getattr(socket, name, 0):  # not every system has each
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
