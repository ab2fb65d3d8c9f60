"""A conversion whose checkpoint streams by: written in the order in which its files arrive.

A file counts when all of it has passed and has the sha256 that it should have; else it is fetched
once more. What is written is written at its final place, and a journal beside it says how far that
is true: a later run goes on at the piece where this one stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from convert import metadata, writer
from convert.gguf_file import padded
from convert.journal import Journal
from convert.options import Options
from convert.part import Part
from convert.plan import FilePlan
from convert.quantize import prepare
from convert.remote import Damaged, RemoteFile
from convert.report import Progress, Report
from convert.safetensors_file import Stored
from convert.sha256 import BLOCK
from convert.stream import Chunk, Piece, chunks, slices
from convert.window import Span, Window
from portable.errors import CheckpointError, ModelFileError, NetworkError

SAVE_BYTES = 8 << 20  # of the checkpoint: so many are fetched again, at most, beside a piece


def write(plan: FilePlan, output: Path, options: Options, progress: Report) -> None:
    """Raises NetworkError when the network is gone, or a file arrives wrong twice."""
    prepare({info.type for info in plan.infos})
    every = [piece for job in plan.jobs for piece in job.pieces]
    files = by_file([piece for piece in every if not is_here(piece)])
    for source, spans in _other_scales(files).items():
        source.fetch(spans)
    partial, journal_name = (output.with_name(name) for name in writer.kept_names(output))
    journal = Journal(journal_name, _fingerprint(plan))
    if not (partial.exists() and partial.stat().st_size == plan.size and journal.load()):
        # First the journal: it must never speak of another file than the one it was written for.
        journal.remove()
        partial.unlink(missing_ok=True)
    writer.check_space(output, plan.size - _stored(partial))
    with kept(writer.KeptFile(output, plan.size), journal) as file:
        run = _Run(plan, files, file, journal, options.workers, progress)
        run.write_here([piece for piece in every if is_here(piece)])
        for source, pieces in files[journal.files :]:
            run.twice(source, pieces)
        plan.checkpoint.check_unchanged()
        progress(Progress("save", run.total, run.total, ""))
        front = plan.front
        digest = file.sha256(len(front)).encode()
        front = front.replace(metadata.SHA256_PLACE.encode(), digest, 1)
        try:
            file.commit(front, lambda path: options.accept(path, plan.checkpoint.folder))
        except ModelFileError:  # refused: going on would only lead here again
            journal.remove()
            raise
    journal.remove()


@contextmanager
def kept(file: writer.KeptFile, journal: Journal) -> Iterator[writer.KeptFile]:
    """The half file stays for a later run as long as a journal says how far it is true."""
    with file:
        try:
            yield file
        finally:
            if not journal.path.exists():
                file.remove()


def _other_scales(
    files: Sequence[tuple[RemoteFile, list[Piece]]],
) -> dict[RemoteFile, set[Span]]:
    """The scales of tensors that lie in another file than theirs: few, if any."""
    found: dict[RemoteFile, set[Span]] = {}
    for own, pieces in files:
        for scale in _scales(pieces):
            if scale.file is not own and isinstance(scale.file, RemoteFile):
                found.setdefault(scale.file, set()).add((scale.start, scale.start + scale.bytes))
    return found


def _own_scales(source: RemoteFile, pieces: Sequence[Piece]) -> set[Span]:
    own = (scale for scale in _scales(pieces) if scale.file is source)
    return {(scale.start, scale.start + scale.bytes) for scale in own}


def _scales(pieces: Iterable[Piece]) -> Iterator[Stored]:
    for piece in pieces:
        if scale := _part(piece).stored.scale:
            yield scale


def _fingerprint(plan: FilePlan) -> str:
    """Of all that decides the bytes: keys, types, version, the weights and which of them matter."""
    digest = hashlib.sha256(plan.front)
    for identity in plan.checkpoint.identities():
        digest.update(hashlib.sha256(identity).digest())
    for entry in (job.importance for job in plan.jobs if job.importance):
        digest.update(entry.sums.tobytes() + entry.counts.tobytes())
    return digest.hexdigest()


def _stored(partial: Path) -> int:
    """Bytes of an earlier run that occupy the disk; unwritten ones do not."""
    return getattr(partial.stat(), "st_blocks", 0) * 512 if partial.exists() else 0


def by_file(pieces: Sequence[Piece]) -> list[tuple[RemoteFile, list[Piece]]]:
    """Each file that something is made of, in order, with its pieces as they come in it."""
    found: dict[str, tuple[RemoteFile, list[Piece]]] = {}
    for piece in sorted(pieces, key=lambda piece: (_part(piece).stored.file.name, _start(piece))):
        file = _part(piece).stored.file
        assert isinstance(file, RemoteFile), "what is here does not stream"
        found.setdefault(file.name, (file, []))[1].append(piece)
    return list(found.values())


def is_here(piece: Piece) -> bool:
    """Made of the config's values, or of an adapter's on this disk."""
    return not (piece.part and isinstance(piece.part.stored.file, RemoteFile))


def _part(piece: Piece) -> Part:
    assert piece.part, "values of the config do not stream"
    return piece.part


def _start(piece: Piece) -> int:
    return _part(piece).stored.start


def mark(pieces: Sequence[Piece], done: int) -> int:
    """Where a file is to be received from when `done` of its pieces are made: a multiple of 64.

    Not behind the next piece's tensor, and not behind what has passed for sure.
    """
    if not done:
        return 0
    last = _part(pieces[done - 1]).stored
    after = last.start + last.bytes
    if done < len(pieces):
        after = min(after, _start(pieces[done]))
    return after // BLOCK * BLOCK


def _spans(pieces: Sequence[Piece]) -> Iterator[Span]:
    """What `chunks` will read."""
    for piece in pieces:
        part = _part(piece)
        for first, count in slices(part):
            _, start, stop = part.span(first, count)
            yield start, stop


@dataclass
class _Run:
    """What is written into `file`, and how far: `journal` says it for good."""

    plan: FilePlan
    files: Sequence[tuple[RemoteFile, list[Piece]]]
    file: writer.KeptFile
    journal: Journal
    threads: int
    progress: Report

    def __post_init__(self) -> None:
        self.total = sum(source.size for source, _ in self.files)
        sizes = [len(self.plan.front), *(padded(info.bytes) for info in self.plan.infos)]
        self.begins = dict(zip(self.plan.jobs, accumulate(sizes)))
        self.unsaved = 0

    def write_here(self, pieces: Sequence[Piece]) -> None:
        """What needs no network: little, and so it is done again by every run."""
        for chunk in chunks(pieces, self.threads):
            self._write(chunk)

    def twice(self, source: RemoteFile, pieces: Sequence[Piece]) -> None:
        """All of a file; what arrived wrong counts no more, and is fetched again once."""
        try:
            self._pass(source, pieces)
            return
        except Damaged as error:
            self.plan.warnings.append(
                f"{source.name} arrived damaged and was fetched again: {error}"
            )
            self.journal.save(self.journal.files)
        try:
            self._pass(source, pieces)
        except Damaged as error:
            self.journal.remove()
            raise NetworkError(
                f"{source.name} arrives damaged: {error}",
                hint="nothing of it is kept; try again later, or the other hub",
            ) from None

    def _pass(self, source: RemoteFile, pieces: Sequence[Piece]) -> None:
        with source.aside(_own_scales(source, pieces)) as scales:
            if self.journal.pieces and self.journal.scales != scales:
                raise Damaged(source, "other scales than before")
            self._receive(source, pieces, scales)
        self.file.sync()
        self.journal.save(self.journal.files + 1)

    def _receive(self, source: RemoteFile, pieces: Sequence[Piece], scales: str) -> None:
        done, state = self.journal.pieces, self.journal.state
        todo, position = pieces[done:], mark(pieces, done) if state else 0
        marks = [mark(pieces, n) for n in range(done + 1, len(pieces) + 1)]

        def tell(at: int, name: str = "") -> None:
            before = sum(other.size for other, _ in self.files[: self.journal.files])
            self.progress(Progress("convert", before + at, self.total, name or source.name))

        with source.passing(list(_spans(todo)), marks, position, state) as window:
            try:
                for chunk in chunks(todo, self.threads):
                    self._write(chunk)
                    done += chunk.ends
                    if chunk.ends:
                        self._save(done, mark(pieces, done), window, scales)
                    tell(window.end, chunk.job.info.name)
            except CheckpointError:
                source.check(tell)  # NaN in what arrived wrong says nothing of the model
                raise
            source.check(tell)

    def _write(self, chunk: Chunk) -> None:
        self.file.write_at(self.begins[chunk.job] + chunk.offset, chunk.data.data)
        self.unsaved += chunk.source_bytes

    def _save(self, done: int, at: int, window: Window, scales: str) -> None:
        """Where the digest's state is known: not behind what has passed."""
        if self.unsaved >= SAVE_BYTES and at in window.states:
            self.file.sync()
            self.journal.save(self.journal.files, done, window.states[at], scales)
            self.unsaved = 0
