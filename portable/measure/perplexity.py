"""How good a model still is: its perplexity on a text, and its divergence from another model.

The measures are llama-perplexity's: each chunk's second half is scored, so that every guess has at
least half a chunk before it. Both models read side by side, and no logits are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.report import Divergence, Estimate, Evaluation
from portable import gguf
from portable.engine.machine import available_memory
from portable.engine.offload.device import GIB
from portable.errors import NonFiniteLogits, UsageError
from portable.measure.chunks import Report, silent
from portable.measure.reader import Logits, Reader

# Rows whose probabilities are worked out at once: a few megabytes for any vocabulary.
ROWS = 8
# Logits and caches of two models: what they take for a vocabulary of 152,000.
BUFFERS = 512 << 20
Values = npt.NDArray[np.float64]


def evaluate(
    model: Path,
    text: str,
    *,
    base: Path | None = None,
    context: int = 512,
    chunks: int | None = None,
    progress: Report = silent,
) -> Evaluation:
    """Perplexity of a GGUF file on a text, and its divergence from `base`, if that is given.

    At most `chunks` chunks of `context` tokens are read. Where the two models do not fit memory
    together, the divergence is left out and `skipped` says why. Raises UsageError for a text of
    less than one chunk or a base with another vocabulary, and what loading raises.
    """
    if context < 8:
        raise UsageError(f"chunks of {context} tokens", hint="8 or more")
    files = [model] if base is None else [model, base]
    skipped = too_large_together(sum(map(gguf.size, files))) if base else ""
    with ExitStack() as stack:
        readers: list[Reader] = []
        for file in files[:1] if skipped else files:
            readers.append(Reader(file, context))
            stack.callback(readers[-1].close)
        parts = readers[0].chunks(text, context, chunks)
        if any(reader.chunks(text, context, chunks) != parts for reader in readers[1:]):
            raise UsageError(f"{base} has another vocabulary than {model}")
        scores = []
        for part in readers[0].each(parts, progress):
            scores += list(_scores(readers, part))
    return _summary(np.concatenate(scores), len(parts), context, skipped)


def too_large_together(size: int) -> str:
    """Why two models of `size` bytes together cannot be compared, or nothing."""
    need, free = size + BUFFERS, available_memory()
    if need <= free:
        return ""
    return f"both models need {need / GIB:.1f} GiB of memory, {free / GIB:.1f} are free"


def _scores(readers: list[Reader], part: list[int]) -> Iterator[Values]:
    """One row for each scored token of a chunk; see `compared`."""
    first = len(part) // 2
    targets = np.array(part[first + 1 :])
    for blocks in zip(*(reader.logits(part[:-1], first) for reader in readers), strict=True):
        for at in range(0, len(blocks[0]), ROWS):
            logs = [log_softmax(block[at : at + ROWS]) for block in blocks]
            here, targets = targets[: len(logs[0])], targets[len(logs[0]) :]
            yield compared(logs, here)


def log_softmax(logits: Logits) -> Logits:
    """Logarithms of the probabilities, row by row."""
    out: Logits = logits - logits.max(axis=1, keepdims=True)
    out -= np.log(np.exp(out).sum(axis=1, keepdims=True))
    return out


def compared(logs: list[Logits], targets: npt.NDArray[np.int_]) -> Values:
    """For each token that followed: its surprise in nats in each model, and with two models also
    the Kullback-Leibler divergence of the first from the second and whether both guess alike.

    `logs` have shape (tokens, vocabulary). Raises NonFiniteLogits.
    """
    rows = np.arange(len(targets))
    columns = [-log[rows, targets].astype(np.float64) for log in logs]
    if len(logs) == 2:
        model, base = logs
        columns.append((np.exp(base) * (base - model)).sum(axis=1, dtype=np.float64))
        columns.append((model.argmax(axis=1) == base.argmax(axis=1)).astype(np.float64))
    found = np.stack(columns, axis=1)
    if not np.isfinite(found).all():
        raise NonFiniteLogits("the model's guesses are not numbers", hint="try another --quant")
    return found


def _summary(scores: Values, chunks: int, context: int, skipped: str) -> Evaluation:
    surprise = scores[:, 0]
    divergence = None
    if scores.shape[1] > 1:
        distance = scores[:, 2]
        divergence = Divergence(
            base_perplexity=_exponential(scores[:, 1]),
            perplexity_ratio=_exponential(surprise - scores[:, 1]),
            mean=_mean(distance),
            median=float(np.median(distance)),
            percentile_99=float(np.percentile(distance, 99)),
            maximum=float(distance.max()),
            same_top=_mean(scores[:, 3]),
        )
    return Evaluation(
        perplexity=_exponential(surprise),
        tokens=len(scores),
        chunks=chunks,
        context=context,
        divergence=divergence,
        skipped=skipped,
    )


def _mean(values: Values) -> Estimate:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return Estimate(float(values.mean()), float(error))


def _exponential(values: Values) -> Estimate:
    mean = _mean(values)
    value = float(np.exp(mean.value))
    return Estimate(value, value * mean.error)
