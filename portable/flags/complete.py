"""What a shell may complete."""

from __future__ import annotations


def complete_model(incomplete: str) -> list[str]:
    """Names that the shell may complete: the catalogue's and the store's; it knows paths itself."""
    from portable import catalogue, store  # noqa: PLC0415  only while a name is being typed

    known = [name for entry in catalogue.load().values() for name in entry.names]
    here = [record.repo for record in store.listing() if record.hub != "local"]
    # A shell begins a new word after a colon.
    return sorted({n for n in known + here if n.startswith(incomplete) and ":" not in n})
