"""Whether a checkpoint's weights can be converted, are stored before that, or stream by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import convert
from portable import hub
from portable.errors import UsageError
from portable.obtain.model import Found, Room, Wish
from portable.progress import size

AGAIN = "interrupted, the same command goes on where it was"


def room(found: Found, listing: hub.Listing, files: Sequence[hub.RemoteFile], wish: Wish) -> Room:
    """What storing the weights would take, and what there is."""
    heavy = _weights(files)
    whole = sum(file.size for file in heavy)
    missing = sum(found.source.missing(listing, file) for file in heavy)
    folder, free = found.source.room(listing)
    made = whole * convert.bits(wish.quant or found.target.quant) / 16
    return Room(folder, free, whole, missing, missing + int(made))


def weights(
    found: Found, listing: hub.Listing, files: Sequence[hub.RemoteFile], room: Room, wish: Wish
) -> tuple[hub.HubFile, ...]:
    """The weights that are to stream, none if they are to be stored, or are already; says why.

    They stream if that is wished, or if the disk could not hold them and what becomes of them. In
    a dry run whatever is not here streams: that is, its headers.
    """
    source, heavy = found.source, _weights(files)
    if not room.missing or not (wish.dry_run or room.streams(wish.keep)):
        return ()
    source.check_names(listing, heavy)
    if not wish.dry_run:
        nameless = [file.path for file in heavy if not file.sha256]
        if nameless and wish.keep is None:
            return ()
        if nameless:
            raise UsageError(
                f"{source.title} names no sha256 of {nameless[0]}: what streams cannot be checked",
                hint="use --keep",
            )
        why = f", for {size(room.free)} are free in {room.folder}" if room.short else ""
        text = f"{size(room.weights)} of weights are converted as they stream, not stored"
        wish.say(f"{text}{why}; {AGAIN}")
    return tuple(hub.HubFile(source, listing, file) for file in heavy)


def check(
    folder: Path,
    found: Found,
    listing: hub.Listing,
    files: Sequence[hub.RemoteFile],
    wish: Wish,
) -> None:
    """Raises for a conversion that cannot be made; `folder` has the small files.

    Of the weights the headers are read.
    """
    heads = tuple(hub.HubFile(found.source, listing, file) for file in _weights(files))
    quant = wish.quant or found.target.quant
    options = convert.Options(quant=quant, name=found.target.repo, imatrix=wish.imatrix)
    convert.preview(folder, options, remote=heads)


def _weights(files: Sequence[hub.RemoteFile]) -> list[hub.RemoteFile]:
    return [file for file in files if file.path.endswith(".safetensors")]
