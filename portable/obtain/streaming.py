"""Whether a checkpoint's weights are stored before they are converted, or stream by."""

from __future__ import annotations

from collections.abc import Sequence

import convert
from portable import hub
from portable.errors import UsageError
from portable.obtain.model import Found, Wish
from portable.progress import size

AGAIN = "interrupted, the same command goes on where it was"


def weights(
    found: Found, listing: hub.Listing, files: Sequence[hub.RemoteFile], wish: Wish
) -> tuple[hub.HubFile, ...]:
    """The weights that are to stream, none if they are to be stored, or are already; says why.

    They stream if that is wished, or if the disk could not hold them and what becomes of them.
    """
    source = found.source
    heavy = [file for file in files if file.path.endswith(".safetensors")]
    missing = sum(source.missing(listing, file) for file in heavy)
    if wish.keep or not missing:
        return ()
    there, free = source.room(listing)
    share = convert.bits(wish.quant or found.target.quant) / 16
    short = free < missing + share * sum(file.size for file in heavy)
    if not short and wish.keep is None:
        return ()
    nameless = [file.path for file in heavy if not file.sha256]
    if nameless:
        if wish.keep is None:
            return ()
        raise UsageError(
            f"{source.title} names no sha256 of {nameless[0]}: what streams cannot be checked",
            hint="use --keep",
        )
    source.check_names(listing, heavy)
    total = size(sum(file.size for file in heavy))
    why = f", for {size(free)} are free in {there}" if short else ""
    wish.say(f"{total} of weights are converted as they stream, not stored{why}; {AGAIN}")
    return tuple(hub.HubFile(source, listing, file) for file in heavy)
