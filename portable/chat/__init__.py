"""The terminal chat: talk to a model, or ask it once; knows no HTTP and no hub."""

from portable.chat.options import ChatOptions
from portable.chat.run import run

__all__ = ["ChatOptions", "run"]
