"""Fetches files from ModelScope and Hugging Face through their own clients; knows no catalogue.

parse("hf://org/name@rev:Q8_0")  ->  Ref(hub="hf", repo="org/name", revision="rev", quant="Q8_0")
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

SCHEMES = {"ms://": "ms", "modelscope://": "ms", "hf://": "hf"}
DEFAULT_HUB = "ms"
_REF = re.compile(r"(?P<repo>[^@]+?)(?:@(?P<revision>[^@:]+))?(?::(?P<quant>[A-Za-z0-9_]+))?")


@dataclass(frozen=True)
class Ref:
    """A model as the user names it; `hub` is None when no scheme was given."""

    hub: str | None
    repo: str
    revision: str | None = None
    quant: str | None = None

    @property
    def is_id(self) -> bool:
        return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo, re.ASCII))


def parse(text: str) -> Ref:
    """`[scheme://]name[@revision][:quant]`; the name is `org/name` or one of the catalogue."""
    scheme = next((s for s in SCHEMES if text.lower().startswith(s)), "")
    match = _REF.fullmatch(text[len(scheme) :].strip())
    if not match:
        return Ref(SCHEMES.get(scheme), text[len(scheme) :])
    return Ref(SCHEMES.get(scheme), **match.groupdict())


def offline_by_environment() -> bool:
    """`PORTABLE_OFFLINE` or `HF_HUB_OFFLINE` set to anything but 0, no or false."""
    values = (os.environ.get(name, "") for name in ("PORTABLE_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() not in ("", "0", "no", "false", "off") for value in values)
