"""The web page at `/`, and `/docs`: files of this package, with headers that keep all else out.

Public, as /health is: there is no secret in them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_PAGES = {"index.html": "/", "docs.html": "/docs"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Scripts, styles and requests of this server only; nothing inline, nothing made from text.
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, but asked for each time: a new version of the server is a new page at once.
    "Cache-Control": "no-cache",
}


def _read() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Path in the address -> content and headers."""
    found = {}
    for file in sorted((Path(__file__).parent / "page").iterdir()):
        content = file.read_bytes()
        path = _PAGES.get(file.name, f"/page/{file.name}")
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        found[path] = (content, _HEADERS | {"Content-Type": _TYPES[file.suffix], "ETag": tag})
    return found


_FILES = _read()
PATHS = frozenset(_FILES)


async def _serve(request: Request) -> Response:
    content, headers = _FILES[request.scope["path"]]
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


ROUTES = [Route(path, _serve, methods=["GET"]) for path in sorted(PATHS)]
