"""Where this program keeps its files; makes no folder and knows no file in one."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """`PORTABLE_HOME`, else the user's data folder."""
    given = os.environ.get("PORTABLE_HOME")
    return Path(given).expanduser() if given else platformdirs.user_data_path("portable", False)


def cache() -> Path:
    """For what can be found out again: `PORTABLE_HOME`, else the user's cache folder."""
    given = os.environ.get("PORTABLE_HOME")
    return home() if given else platformdirs.user_cache_path("portable", False)
