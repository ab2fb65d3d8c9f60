"""`portable convert --evaluate TEXT`: the finished file beside the same model in BF16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from convert import Converted, Options
from convert.quants import QUANTS
from convert.report import Estimate, Evaluation
from convert.writer import check_space
from portable import measure
from portable.cli.app import say
from portable.progress import Report, size

BASE = "BF16"


class Evaluator:
    """Reads at most `chunks` chunks of a text file. Raises UsageError for one that is no text."""

    def __init__(self, path: Path, chunks: int, report: Report) -> None:
        self.text = measure.read_text(path)
        self.chunks = chunks
        self.report = report

    def convert(
        self,
        make: Callable[[Path, Options], Converted],
        size_of: Callable[[Options], int],
        output: Path,
        options: Options,
    ) -> Converted:
        """What `make` makes at `output`, and how good it is.

        The BF16 model lies beside it until then, if disk and memory have room: without room on the
        disk nothing is begun (DiskError), without memory the divergence is left out.
        """
        plain = Options(quant=BASE, name=options.name, threads=options.threads)
        base, skipped = None, ""
        if QUANTS[options.quant].quantized:
            sizes = size_of(options), size_of(plain)
            skipped = measure.too_large_together(sum(sizes))
            if not skipped:
                base = output.with_name(f".{output.name}.base.gguf")
                say(f"the BF16 model takes {size(sizes[1])} of the disk until it is evaluated")
                check_space(output, sum(sizes))
        done = make(output, options)
        try:
            if base:
                make(base, plain)
            found = self._evaluate(done.path, base)
        finally:
            if base:
                base.unlink(missing_ok=True)
        return replace(done, evaluation=replace(found, skipped=skipped or found.skipped))

    def _evaluate(self, model: Path, base: Path | None) -> Evaluation:
        return measure.evaluate(
            model,
            self.text,
            base=base,
            chunks=self.chunks,
            progress=lambda done, total: self.report("evaluate", done, total, ""),
        )


def lines(found: Evaluation) -> Iterator[str]:
    """An evaluation as people read it."""
    scored = f"{found.tokens} tokens in {found.chunks} chunks of {found.context}"
    yield f"perplexity {_text(found.perplexity)}, on {scored}"
    if there := found.divergence:
        ratio, same = _text(there.perplexity_ratio), _text(there.same_top, 100)
        yield f"perplexity in {BASE} {_text(there.base_perplexity)}: {ratio} times that"
        yield (
            f"KL divergence from {BASE} {_text(there.mean)} nats on average, 99 % are below "
            f"{there.percentile_99:.4f}, all below {there.maximum:.4f}"
        )
        yield f"the likeliest token is the same for {same} %"
    if found.skipped:
        yield f"KL divergence is left out: {found.skipped}"


def _text(estimate: Estimate, scale: float = 1) -> str:
    return f"{estimate.value * scale:.4f} ± {estimate.error * scale:.4f}"
