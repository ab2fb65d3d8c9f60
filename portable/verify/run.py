"""All checks of one GGUF file, one line each; how to find things out is others' work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from convert.readback import read_tensors
from convert.vocab.reference import Reference, Sample
from portable import gguf
from portable.engine.attempt import (
    STEPS,
    Failed,
    Generated,
    Loaded,
    Prompts,
    Request,
    Result,
    Skipped,
    Tokens,
)
from portable.errors import CheckpointError, ModelFileError
from portable.progress import Report, silent, size
from portable.verify.check import Check, Status, Verdict
from portable.verify.child import started

GENERATE = 8


def verify(
    path: Path,
    checkpoint: Path | None = None,
    *,
    generate_up_to: int | None = None,
    report: Report = silent,
) -> Verdict:
    """Reads all of a GGUF file, and has llama.cpp load and use it in a process of its own.

    Its tokens are held against the `checkpoint` folder that it was made of. Nothing is generated
    from a file of more than `generate_up_to` bytes. Raises UsageError when there is no such file;
    all else is in the verdict.
    """
    with started() as trial:
        reference, why = _reference(checkpoint)
        limit = math.inf if generate_up_to is None else generate_up_to
        large = gguf.size(path) > limit
        texts = [(s.text, s.framed) for s in reference.samples] if reference else []
        trial.ask(Request(str(path.absolute()), texts, 0 if large else GENERATE))
        checks = list(_read_again(path, report))
        results = trial.results()
    if large:
        results.setdefault("generation", Skipped(f"the file has more than {size(limit)}"))
    checks += _of_results(results, path, reference, why)
    return Verdict(tuple(checks))


def _reference(checkpoint: Path | None) -> tuple[Reference | None, str]:
    """The checkpoint's own tokenizer, or why there is none to compare with."""
    if checkpoint is None:
        return None, "no checkpoint to compare with: --checkpoint FOLDER names it"
    if not (checkpoint / "tokenizer.json").is_file():
        return None, "the checkpoint has no tokenizer.json to compare with"
    try:
        return Reference(checkpoint), ""
    except CheckpointError as error:
        return None, error.message


def _read_again(path: Path, report: Report) -> Iterator[Check]:
    """That the disk has what was written, and that it is numbers."""
    total, done, tensors = gguf.size(path), 0, 0
    digests: list[tuple[str | None, str]] = []
    invalid: list[str] = []

    def step(count: int) -> None:
        nonlocal done
        done += count
        report("verify", done, total, "")

    try:
        for shard in gguf.shards(path):
            head = gguf.read(shard)
            step(head.start)
            found = read_tensors(shard, head, step)
            digests.append((head.keys.get(gguf.CHECKSUM), found.sha256))
            invalid += found.invalid
            tensors += head.tensors
    except (ModelFileError, OSError) as error:
        yield Check("file", "FAIL", str(error))
        yield Check("values", "SKIP", "not reached")
        return
    yield _sums(*digests[0])
    if invalid:
        yield Check("values", "FAIL", f"{invalid[0]} holds values that are no numbers")
    else:
        yield Check("values", "PASS", f"all {tensors} tensors are finite")


def _sums(written: str | None, found: str) -> Check:
    if written is None:
        return Check("file", "SKIP", f"it holds no checksum of its tensors ({gguf.CHECKSUM})")
    if written != found:
        return Check("file", "FAIL", "its tensors are not what was written: the SHA-256 differs")
    return Check("file", "PASS", f"read again from the disk, SHA-256 {written[:12]}… as written")


def _of_results(
    results: dict[str, Result], path: Path, reference: Reference | None, why: str
) -> Iterator[Check]:
    """One check for each step of the trial, as far as it came."""
    for name in STEPS:
        match results.get(name):
            case None:
                yield Check(name, "SKIP", "not reached")
            case Failed(reason):
                yield Check(name, "FAIL", _unnamed(reason, path))
            case Skipped(reason):
                yield Check(name, "SKIP", _unnamed(reason, path))
            case Loaded(architecture, parameters):
                what = f"{architecture}, {parameters / 1e6:,.1f} M parameters"
                yield Check(name, "PASS", f"llama.cpp finds every tensor of {what}")
            case Tokens(ids):
                yield _tokens(reference, ids) if reference else Check(name, "SKIP", why)
            case Prompts() as prompts:
                yield _template(prompts, reference)
            case Generated(count):
                yield Check(name, "PASS", f"{count} tokens from finite logits")


def _unnamed(reason: str, path: Path) -> str:
    """A file that is not in its place yet has a name that tells nobody anything."""
    return reason.replace(str(path.absolute()), "the file").replace(path.name, "the file")


def _tokens(reference: Reference, ids: list[list[int]]) -> Check:
    pairs = zip(reference.samples, ids, strict=True)
    wrong = [sample for sample, found in pairs if reference.ids(sample) != found]
    total = len(reference.samples)
    if not wrong:
        return Check("tokens", "PASS", f"{total} texts split exactly as by tokenizer.json")
    wrong.sort(key=lambda sample: not sample.core)
    detail = f"{len(wrong)} of {total} texts split otherwise than by tokenizer.json"
    if wrong[0].core:
        return Check("tokens", "FAIL", f"{detail}, one is {wrong[0].text!r}")
    why = reference.limit or "none of them common: rare scripts and characters"
    return Check("tokens", "NOTE", f"{detail}: {why}")


def _template(found: Prompts, reference: Reference | None) -> Check:
    name = "template"
    if not found.prompts:
        return Check(name, "SKIP", "the model has none: it was not trained to chat")
    if reference and any(reference.ids(Sample(text)) != ids for text, ids in found.prompts):
        status: Status = "NOTE" if reference.limit else "FAIL"
        detail = "its prompts are split otherwise than by tokenizer.json"
        return Check(name, status, f"{detail}: {reference.limit}" if reference.limit else detail)
    if found.refused:
        return Check(name, "NOTE", f"renders, but not with a system prompt: {found.refused}")
    return Check(name, "PASS", "renders conversations of system, user and assistant")
