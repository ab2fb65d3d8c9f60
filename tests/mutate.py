"""Damages files the way disks, networks and attackers do; the same random numbers, the same damage.

mutated(b'{"a": 1}', "config.json", random.Random(7))  ->  ("type", b'{"a": "../../etc/passwd"}')
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

Bytes = Callable[[bytes, Random], bytes]
Json = Callable[[Any, Random], Any]

# What a value of any type may be replaced by.
NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    2**31,
    2**32 - 1,
    2**63,
    2**64,
    10**40,
    0.5,
    -0.0,
    1e-300,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "0",
    "\0",
    "\ud800",
    "\x1b[31m\n",
    "../../etc/passwd",
    "a" * 5000,
    "😀",
    [],
    {},
    [[[[]]]],
    [None],
    [1, 2, 3],
    {"": ""},
    ["a", 1, None],
)


def flip(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(data: bytes, rng: Random) -> bytes:
    start, end = span(data, rng)
    fill = rng.choice((bytes(end - start), b"\xff" * (end - start), rng.randbytes(end - start)))
    return data[:start] + fill + data[end:]


def cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def drop(data: bytes, rng: Random) -> bytes:
    start, end = span(data, rng)
    return data[:start] + data[end:]


def repeat(data: bytes, rng: Random) -> bytes:
    start, end = span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 3)) + data[end:]


def append(data: bytes, rng: Random) -> bytes:
    return data + rng.choice((b"\0", b"\n\n", b"}", rng.randbytes(40), data[:100]))


def replace(data: bytes, rng: Random) -> bytes:
    return rng.choice(
        (
            b"",
            b"null",
            b"[]",
            b"{}",
            b"7",
            b"[" * 100_000,
            b'{"a":' * 5000 + b"1" + b"}" * 5000,
            b"9" * 5000,
            b"\xef\xbb\xbf" + data,
            data.decode("utf-8", "replace").encode("utf-16"),
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
            b"<!DOCTYPE html><html></html>",
            rng.randbytes(300),
        )
    )


def span(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 8, 64, 1000)))


BYTES: dict[str, Bytes] = {
    f.__name__: f for f in (flip, overwrite, cut, drop, repeat, append, replace)
}


# --- JSON ---


def node(tree: Any, rng: Random) -> tuple[Any, Any]:
    """A container of the tree and a key or index in it; long lists are entered seldom."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = rng.choice(keys)
        child = tree[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.3:
            return tree, key
        tree = child


def nasty(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(NASTY))


def swap_type(tree: Any, rng: Random) -> Any:
    holder, key = node(tree, rng)
    holder[key] = nasty(rng)
    return tree


def nudge(tree: Any, rng: Random) -> Any:
    """Another value of the same type."""
    holder, key = node(tree, rng)
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, int | float):
        holder[key] = rng.choice(
            (value + 1, value - 1, value * 2, -value, value * 10**6, value / 3)
        )
    elif isinstance(value, str):
        holder[key] = rng.choice((value[:-1], value + "x", value.upper(), value[::-1], value * 2))
    elif isinstance(value, list):
        holder[key] = rng.choice((value[::-1], value + value, value[:1], [value]))
    else:
        holder[key] = [value]
    return tree


def remove(tree: Any, rng: Random) -> Any:
    holder, key = node(tree, rng)
    del holder[key]
    return tree


def rename(tree: Any, rng: Random) -> Any:
    holder, key = node(tree, rng)
    if isinstance(holder, dict):
        name = rng.choice((key + "x", key[1:], "", "\ud800", "\0", "a\nb", "x" * 3000, "__class__"))
        holder[name] = holder.pop(key)
    return tree


def deepen(tree: Any, rng: Random) -> Any:
    holder, key = node(tree, rng)
    deep: Any = nasty(rng)
    for _ in range(rng.choice((3, 200))):
        deep = rng.choice(([deep], {"a": deep}))
    holder[key] = deep
    return tree


def fill(tree: Any, rng: Random) -> Any:
    """More entries, copies of one; many where it is small."""
    holder, key = node(tree, rng)
    times = 10_000 // (10 + len(json.dumps(holder[key])))
    if isinstance(holder, list):
        holder.extend([holder[key]] * times)
    else:
        holder |= {f"{key}{i}": holder[key] for i in range(times)}
    return tree


JSONS: dict[str, Json] = {f.__name__: f for f in (swap_type, nudge, remove, rename, deepen, fill)}


def in_json(data: bytes, rng: Random) -> tuple[str, bytes]:
    tree = json.loads(data)
    how = rng.choice((*JSONS, "swap_type", "nudge", "twice"))
    if how == "twice":
        return how, twice(data, rng)
    times = rng.choice((1, 1, 1, 3))
    for _ in range(1 if how == "fill" else times):  # three would be more than the tests may hold
        if tree:
            tree = JSONS[how](tree, rng)
    return how, json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def twice(data: bytes, rng: Random) -> bytes:
    """A key that stands there twice, with another value."""
    tree = json.loads(data)
    if not isinstance(tree, dict) or not tree:
        return data + data
    key = rng.choice(list(tree))
    value = json.dumps(nasty(rng))
    return f"{{{json.dumps(key)}: {value}, ".encode() + data.lstrip()[1:]


# --- safetensors and GGUF ---


def in_header(data: bytes, rng: Random) -> tuple[str, bytes]:
    """The JSON header of a safetensors file, its length, or one of them against the other."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.15:
        told = rng.choice((0, 1, length - 1, length + 1, length * 2, 2**31, 2**63, 2**64 - 1))
        return "length", struct.pack("<Q", told) + data[8:]
    how, header = in_json(header, rng)
    return f"header {how}", struct.pack("<Q", len(header)) + header + rest


def in_front(data: bytes, rng: Random) -> tuple[str, bytes]:
    """The first kilobytes, where a binary file says what it holds."""
    size = min(len(data), 4096)
    how = rng.choice(list(BYTES))
    return f"front {how}", BYTES[how](data[:size], rng) + data[size:]


def mutated(data: bytes, name: str, rng: Random) -> tuple[str, bytes]:
    """What was done, and the file after it."""
    if name.endswith(".safetensors") and rng.random() < 0.7:
        return in_header(data, rng)
    if name.endswith(".json") and rng.random() < 0.8:
        return in_json(data, rng)
    if name.endswith((".gguf", ".model", ".dat")) and rng.random() < 0.6:
        return in_front(data, rng)
    how = rng.choice(list(BYTES))
    return how, BYTES[how](data, rng)
