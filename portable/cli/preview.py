"""`portable convert --dry-run`: what would be made, and whether this machine can hold it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portable.errors import DiskError
from portable.progress import size

if TYPE_CHECKING:
    from convert import Preview
    from portable.obtain import Checkpoint


def facts(
    found: Preview, source: Checkpoint, target: Path, quant: str, keep: bool | None
) -> dict[str, Any]:
    """What `--json` prints. Sizes in bytes; `how` is store, stream or here."""
    from portable.fit.fit import planned, usual
    from portable.obtain.look import of_preview

    room = source.room
    how = "here" if not room or not room.missing else "stream" if room.streams(keep) else "store"
    folder = next(path for path in target.absolute().parents if path.is_dir())
    free = shutil.disk_usage(folder).free
    question = usual()
    cases = {c.variant.quant: c for c in planned(of_preview(source, found, quant), question)}
    chosen = cases[quant]
    return {
        "model": source.full_id or source.name,
        "architecture": found.architecture,
        "parameters": found.parameters,
        "context": found.context,
        "weights": found.weights,
        "to_fetch": room.missing if room else 0,
        "how": how,
        "output": str(target),
        "quant": quant,
        "size": found.size,
        "disk": {"folder": str(folder), "free": free, "fits": found.size <= free},
        "cache": {"folder": str(room.folder), "free": room.free, "fits": not room.short}
        if room and how == "store"
        else None,
        "memory": {
            "available": question.devices[-1].free,
            "needed": sum(share.total for share in chosen.plan.shares),
            "context": chosen.plan.context,
            "fits": chosen.fits,
            "reason": chosen.plan.reason,
        },
        "quants": [
            {
                "quant": item.quant,
                "size": item.size,
                "bits": round(item.bits, 2),
                "needs_imatrix": item.needs_imatrix,
                "fits_disk": item.size <= free,
                "fits_memory": cases[item.quant].fits,
            }
            for item in found.sizes
        ],
        "warnings": list(found.warnings),
    }


def show(said: dict[str, Any], *, as_json: bool) -> None:
    """Prints it, and raises DiskError if the conversion could not be made."""
    print(json.dumps(said, ensure_ascii=False, indent=2) if as_json else "\n".join(_text(said)))
    for disk, needed in ((said["disk"], said["size"]), (said["cache"], said["to_fetch"])):
        if disk and not disk["fits"]:
            raise DiskError(
                f"not enough room in {disk['folder']}: {size(needed)} and more are needed, "
                f"{size(disk['free'])} free",
                hint="free some space, choose a smaller --quant or another --output"
                if disk is said["disk"]
                else "leave --keep out, and it is converted as it streams",
            )


def _text(said: dict[str, Any]) -> list[str]:
    disk, memory = said["disk"], said["memory"]
    parameters = f"{said['parameters'] / 1e9:.2f} billion parameters"
    how = {
        "here": "which are on this disk",
        "store": f"of which {size(said['to_fetch'])} would be fetched and stored",
        "stream": "which would be converted as they stream, and not stored",
    }[said["how"]]
    return [
        f"{said['model']}: {said['architecture']}, {parameters}",
        f"{size(said['weights'])} of weights, {how}",
        *_table(said),
        f"{said['output']}: {said['quant']}, {size(said['size'])}, "
        f"{_fits(disk['fits'])} ({size(disk['free'])} free)",
        f"to run it with {memory['context']} tokens: {size(memory['needed'])} of memory, "
        f"{_fits(memory['fits'])} ({size(memory['available'])} free); how fast: portable fit",
        *(f"note: {warning}" for warning in said["warnings"]),
    ]


def _table(said: dict[str, Any]) -> list[str]:
    lines = [f"  {'quant':10} {'size':>9}  bits  fits"]
    for item in said["quants"]:
        places = [name for name in ("disk", "memory") if item[f"fits_{name}"]]
        fits = ", ".join(places) or "not here"
        note = "; needs --imatrix" if item["needs_imatrix"] else ""
        mark = "*" if item["quant"] == said["quant"] else " "
        lines.append(
            f"{mark} {item['quant']:10} {size(item['size']):>9} {item['bits']:5.2f}  {fits}{note}"
        )
    return lines


def _fits(fits: bool) -> str:
    return "fits" if fits else "does not fit"
