"""Asks a server that runs for something; what it refuses is raised."""

from __future__ import annotations

from typing import Any

import httpx2

from portable.errors import EngineError, NetworkError, UsageError


def unload(url: str, model: str | None = None, api_key: str | None = None) -> str:
    """Have a model unloaded, by default the server's first; returns its id once it is.

    Raises NetworkError, UsageError for what the request has wrong, and EngineError.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx2.post(
            f"{url.rstrip('/')}/models/unload",
            json={"model": model},
            headers=headers,
            timeout=httpx2.Timeout(10, read=None),  # the model answers first who was there
            trust_env=False,
        )
        said: dict[str, Any] = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise NetworkError(
            f"no server answers at {url}: {error}", hint="portable serve starts one; name its --url"
        ) from None
    except ValueError:
        raise NetworkError(f"{url} is no portable server", hint="name its --url") from None
    if answer.status_code != 200:
        words = said.get("error", {}).get("message") or f"status {answer.status_code}"
        raise (UsageError if answer.status_code < 500 else EngineError)(f"{url}: {words}")
    return str(said["id"])
