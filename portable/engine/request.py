"""One sequence with what turns its tokens into text, and when things happened to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from portable.engine.logprobs import Logprobs
from portable.engine.sampling import Sampler
from portable.engine.sequence import Delta, Progress, Sequence, Usage
from portable.engine.text import TextStream


@dataclass(slots=True, eq=False)
class Request:
    """Times are seconds on the engine's clock."""

    sequence: Sequence
    sampler: Sampler
    text: TextStream
    logprobs: Logprobs | None
    queued_at: float
    started_at: float = 0.0
    first_at: float = 0.0

    def told(self, delta: Delta) -> Delta:
        """With the probabilities of the tokens whose text it shows, if they are wanted."""
        if self.logprobs is None or not delta.text:
            return delta
        return replace(delta, logprobs=self.logprobs.take(delta.text))

    def progress(self, now: float) -> Delta:
        """How far the prompt is read; one that had to step back is read anew."""
        sequence = self.sequence
        read = min(sequence.cached, sequence.n_prompt)
        seconds = now - self.started_at
        progress = Progress(sequence.n_prompt, sequence.reused, read, seconds)
        return Delta(sequence.id, "", progress=progress)

    def usage(self, now: float) -> Usage:
        sequence = self.sequence
        started, first = self.started_at or now, self.first_at or now
        return Usage(
            prompt_tokens=sequence.n_prompt,
            cached_tokens=sequence.reused,
            completion_tokens=sequence.n_output,
            drafted_tokens=sequence.drafted,
            accepted_tokens=sequence.accepted,
            queue_seconds=started - self.queued_at,
            prompt_seconds=first - started,
            decode_seconds=now - first,
        )
