"""The server as replicas on Ray Serve: `serve run portable.cluster:app model=MODEL`."""

try:
    from portable.cluster.build import app
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "ray":
        raise
    raise ImportError('replicas need Ray Serve: pip install "portable-llm[ray]"') from None

__all__ = ["app"]
