"""`portable convert --evaluate TEXT`: the finished file beside the same model in BF16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from convert import Converted, Options
from convert.quants import QUANTS
from convert.report import Evaluation
from convert.writer import check_space, remove_partials
from portable import measure
from portable.cli.app import say
from portable.errors import PortableError
from portable.progress import Report, size

BASE = "BF16"


class Evaluator:
    """Reads at most `chunks` chunks of a text file. Raises what `measure.read_text` raises."""

    def __init__(self, path: Path, chunks: int, report: Report) -> None:
        self.text = measure.read_text(path, chunks)
        self.chunks = chunks
        self.report = report

    def convert(
        self,
        make: Callable[[Path, Options], Converted],
        sizes: Callable[[], Mapping[str, int]],
        output: Path,
        options: Options,
    ) -> Converted:
        """What `make` makes at `output`, and how good it is; `sizes` are those of each quant.

        The BF16 model lies beside it until then, if disk and memory have room: without room on the
        disk nothing is begun (DiskError), without memory the divergence is left out.
        """
        plain = Options(quant=BASE, name=options.name, threads=options.threads)
        base, skipped = None, ""
        if QUANTS[options.quant].quantized:
            known = sizes()
            both = known[options.quant] + known[BASE]
            skipped = measure.too_large_together(both)
            if not skipped:
                base = output.with_name(f".{output.name}.base.gguf")
                say(f"the BF16 model takes {size(known[BASE])} of the disk until it is evaluated")
                check_space(output, both)
        done = make(output, options)
        try:
            if base:
                make(base, plain)
            found = self._evaluate(done.path, base)
        except (PortableError, KeyboardInterrupt):
            say(f"{done.path} is complete, but was not evaluated")
            raise
        finally:
            if base:
                base.unlink(missing_ok=True)
                remove_partials(base)  # what an interrupted stream would go on with
        return replace(done, evaluation=replace(found, skipped=skipped or found.skipped))

    def _evaluate(self, model: Path, base: Path | None) -> Evaluation:
        return measure.evaluate(
            model,
            self.text,
            base=base,
            chunks=self.chunks,
            progress=lambda done, total: self.report("evaluate", done, total, ""),
        )
