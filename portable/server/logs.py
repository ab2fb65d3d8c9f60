"""How the log is written: as text in uvicorn's style, or a JSON object a line."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Literal

import uvicorn.config
from uvicorn.logging import DefaultFormatter

Format = Literal["text", "json"]


class Text(DefaultFormatter):
    """The message, then the fields as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        told = "".join(f" {name}={value}" for name, value in fields.items())
        return super().formatMessage(record) + told


class Json(logging.Formatter):
    """One object a line; the fields beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.gmtime(record.created)
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', seconds)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def settings(form: Format, level: str) -> dict[str, Any]:
    """uvicorn's `log_config`: its lines and ours, on stderr, in one style."""
    made: dict[str, Any] = {"()": Json}
    if form == "text":
        made = {"()": Text, "fmt": "%(levelprefix)s %(message)s", "use_colors": None}
    handler = {"formatter": "default", "class": "logging.StreamHandler"}
    loud = {"handlers": ["default"], "level": level.upper(), "propagate": False}
    return {
        **uvicorn.config.LOGGING_CONFIG,
        "formatters": {"default": made},
        "handlers": {"default": {**handler, "stream": "ext://sys.stderr"}},
        # INFO at least: people wait for the line with the address.
        "loggers": {"uvicorn": {**loud, "level": "INFO"}, "portable": loud},
    }


def join(form: Format, level: str) -> None:
    """Our lines on stderr, in a process whose logging is another's: its handlers stay."""
    handler = logging.StreamHandler()
    text = Text("%(levelprefix)s %(message)s", use_colors=False)
    handler.setFormatter(Json() if form == "json" else text)
    ours = logging.getLogger("portable")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(level.upper())
