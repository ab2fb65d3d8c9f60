"""Every error that `portable` and `convert` raise on purpose, drawn as one tree; imports nothing.

    PortableError
      ├── UsageError             a wrong flag, path or name
      │     ├── NotOnHub         a hub has no such repository or revision, or hides it
      │     └── InvalidRequest   a wrong field of a request; names it in `param`
      │           ├── ContextLengthExceeded
      │           ├── ModelNotFound
      │           └── WrongModel     the model is there, but not made for this
      ├── CheckpointError        a checkpoint folder that cannot be converted as it is
      ├── UnsupportedModel       an architecture, tokenizer or quantization we do not know
      ├── ModelFileError         a GGUF file that cannot be loaded
      ├── NotEnoughMemory
      │     └── OutOfMemory      memory that seemed free could not be had
      ├── DiskError
      ├── Busy                   somebody else holds the lock
      │     └── QueueFull
      ├── NetworkError
      ├── EngineError            llama.cpp refused or died
      │     └── NonFiniteLogits
      ├── TemplateError          the model's chat template is broken or does not end
      └── PortInUse

Each edge translates the tree once: the command line to `exit_code`, HTTP to `status` and `code`.
"""

from __future__ import annotations

from typing import Any

LONGEST = 1000  # characters


class PortableError(Exception):
    """What happened, in one line, and in `hint` what to do next."""

    exit_code = 1
    status = 500
    code: str | None = "internal_error"
    usual_hint = ""

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = plain(message)
        self.hint = plain(hint or self.usual_hint)
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def plain(text: str) -> str:
    """One short line, for messages: it may quote a file, and a terminal obeys some characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


class UsageError(PortableError):
    exit_code = 2
    status = 400
    code: str | None = None


class NotOnHub(UsageError):
    """Another hub may have it."""


class InvalidRequest(UsageError):
    """`param` names the field, with its path: `messages[2].content`."""


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class WrongModel(InvalidRequest):
    code = "model_not_supported"


class CheckpointError(PortableError):
    exit_code = 2
    usual_hint = "download the checkpoint again"
    code = "invalid_checkpoint"


class UnsupportedModel(PortableError):
    exit_code = 3
    usual_hint = "choose another model"
    code = "unsupported_model"


class ModelFileError(PortableError):
    exit_code = 3
    code = "invalid_model_file"


class NotEnoughMemory(PortableError):
    exit_code = 4
    status = 503
    code = "not_enough_memory"


class OutOfMemory(NotEnoughMemory):
    """It was planned for: with a smaller plan it may work."""


class DiskError(PortableError):
    exit_code = 5
    code = "disk_error"


class Busy(PortableError):
    """`seconds`: when to try again."""

    exit_code = 6
    status = 503
    code = "busy"
    seconds = 2.0


class QueueFull(Busy):
    status = 429
    code = "queue_full"

    def __init__(self, message: str, *, seconds: float = Busy.seconds, **more: Any) -> None:
        super().__init__(message, **more)
        self.seconds = seconds


class NetworkError(PortableError):
    exit_code = 7
    status = 502
    code = "network_error"


class EngineError(PortableError):
    exit_code = 70
    code = "backend_error"


class NonFiniteLogits(EngineError):
    code = "non_finite_logits"


class TemplateError(PortableError):
    exit_code = 3
    status = 400  # nothing to try again: the same messages fail the same way
    code = "chat_template_error"


class PortInUse(PortableError):
    exit_code = 98
    code = "port_in_use"
