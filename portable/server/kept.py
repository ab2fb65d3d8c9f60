"""Responses that a later request goes on from: in memory, bounded, the longest unused go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from portable.server.wire.responses import Item


class Kept(msgspec.Struct):
    """A response as it was sent, and the conversation up to its end."""

    response: dict[str, Any]
    items: list[Item]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Kept).decode


class ResponseStore:
    """At most so many responses and bytes. Each holds its whole conversation, as JSON."""

    def __init__(self, max_count: int = 1000, max_bytes: int = 64 << 20) -> None:
        self._max_count, self._max_bytes = max_count, max_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._home: dict[str, str] = {}  # an item's id -> its response's
        self._bytes = 0

    def put(self, kept: Kept) -> None:
        """Keep it, unless it is larger than all the room."""
        data = _encode(kept)
        if len(data) > self._max_bytes:
            return
        id = kept.response["id"]
        self._kept[id] = data
        self._bytes += len(data)
        self._home |= {item["id"]: id for item in kept.response["output"]}
        while len(self._kept) > self._max_count or self._bytes > self._max_bytes:
            self.delete(next(iter(self._kept)))

    def get(self, id: str) -> Kept | None:
        """Whoever is asked for stays longer."""
        if id not in self._kept:
            return None
        self._kept.move_to_end(id)
        return _decode(self._kept[id])

    def item(self, id: str) -> Item | None:
        """What some response said."""
        kept = self.get(self._home.get(id, ""))
        return next((item for item in kept.items if item.id == id), None) if kept else None

    def delete(self, id: str) -> bool:
        """Whether there was one."""
        kept = self.get(id)
        if kept is None:
            return False
        self._bytes -= len(self._kept.pop(id))
        for item in kept.response["output"]:
            del self._home[item["id"]]
        return True
