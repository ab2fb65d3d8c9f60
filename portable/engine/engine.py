"""add / step / cancel: schedule -> decode -> sample -> commit -> text; knows no thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, replace

import numpy as np
import numpy.typing as npt

from portable.engine.backend import Aborted, Backend, CacheFull
from portable.engine.calibration import SINGLE, Calibration
from portable.engine.checks import check_bias, check_prompt
from portable.engine.config import EngineConfig
from portable.engine.costs import StepCosts
from portable.engine.logprobs import Logprobs
from portable.engine.marks import points
from portable.engine.pace import Pace
from portable.engine.prefix import Copy, Keep, Move
from portable.engine.prompts.cache import PromptCache
from portable.engine.prompts.recall import Recall
from portable.engine.request import Request
from portable.engine.sampling import Constraint, Sampler
from portable.engine.scheduler import Plan, Scheduler
from portable.engine.sequence import (
    Delta,
    FinishReason,
    SamplingParams,
    Sequence,
    Slice,
)
from portable.engine.speculation.drafter import Drafter
from portable.engine.speculation.draftmodel import DraftModel
from portable.engine.speculation.lookup import Lookup
from portable.engine.speculation.speculator import Speculator
from portable.engine.text import TextStream
from portable.engine.threads import Threads
from portable.errors import EngineError, PortableError


@dataclass(slots=True)
class Engine:
    """Many requests on one model, a step at a time. Not thread-safe: one thread owns it.

    `prompts` are prefixes on disk; `draft` guesses ahead. Without `threads` each step takes those
    that the backend was loaded with.
    """

    backend: Backend
    config: EngineConfig
    clock: Callable[[], float] = time.perf_counter
    prompts: InitVar[PromptCache | None] = None
    threads: Threads | None = None
    draft: InitVar[DraftModel | None] = None
    scheduler: Scheduler = field(init=False)
    pace: Pace = field(init=False)
    speculator: Speculator = field(init=False)
    costs: StepCosts = field(default_factory=StepCosts)
    steps: int = 0
    token_seconds: float = 0.0  # one token alone, on an empty cache; 0 until that was timed
    _in_flight: list[Slice] = field(default_factory=list)
    _requests: dict[str, Request] = field(default_factory=dict)
    _recall: Recall | None = None
    _calibrations: list[Calibration] = field(default_factory=list)

    def __post_init__(self, prompts: PromptCache | None, draft: DraftModel | None) -> None:
        backend = self.backend
        self.scheduler = Scheduler(
            self.config, backend.cells, intact=backend.is_intact, mark_bytes=backend.mark_bytes
        )
        self.pace = Pace(self.config.step_seconds, self.config.step_tokens)
        self.speculator = Speculator(self._drafters(draft), self.costs)
        self._calibrations = self._steps_to_time(draft)
        if prompts:
            self._recall = Recall(self.backend, self.scheduler, prompts, self._carry_out)

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(
        self,
        id: str,
        tokens: list[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
    ) -> None:
        """Queue a prompt. Raises InvalidRequest if it is empty, too long or out of vocabulary.

        `constraint` is `params.grammar`, compiled.
        """
        check_prompt(tokens, self.backend)
        check_bias(params.logit_bias, self.backend.vocabulary)
        sequence = Sequence(id, list(tokens), params)
        if self.config.prefix_cache and self.backend.mark_bytes:
            sequence.pauses = points(tokens, self.backend.is_control)
        self._requests[id] = Request(
            sequence,
            Sampler(params, tokens, constraint),
            TextStream(params.stop, params.begun),
            self._logprobs(params),
            self.clock(),
        )
        self.scheduler.add(sequence)

    def cancel(self, id: str) -> Delta | None:
        """End a request at once, in whatever state it is; its cells are free at the next step."""
        request = self._requests.get(id)
        return self._end(request, "cancelled") if request else None

    def step(self) -> list[Delta]:
        """Decode one batch and return what it brought."""
        # Beside a prompt that is to be read there is enough to do.
        most = 0 if self.scheduler.may_admit else self.config.step_tokens
        self.speculator.propose(self.scheduler.running, most, self.backend.context)
        if self._recall:
            self._recall.restore()
        plan = self.scheduler.schedule(self.pace.budget)
        if not self._carry_out(plan.moves) or not plan.slices:
            return []
        self._mark_started(plan)
        logits = self._decode(plan)
        if logits is None:
            return []
        self.steps += 1
        self.scheduler.commit(plan.slices)
        self._leave_marks(plan.slices)
        deltas, at = [], 0
        for part, rows in [(part, part.rows) for part in plan.slices]:
            if rows:
                deltas.append(self._verify(part, logits[at : at + rows]))
                at += rows
            else:
                deltas.append(self._requests[part.sequence.id].progress(self.clock()))
        self.speculator.settle(plan.slices)
        return deltas

    def calibrate(self) -> bool:
        """Time one step; False when that is enough. For idle moments before the first request."""
        if self.steps or self.has_work:
            return False
        if any(calibration.step() for calibration in self._calibrations):
            return True
        self.token_seconds = self.costs.seconds(1)
        return False

    def save_prompt(self) -> bool:
        """Save one prefix on disk; False when there is nothing left to do. For idle moments."""
        return bool(self._recall and self._recall.save())

    def close(self) -> None:
        """Save what is worth it; returns when it is written."""
        if self._recall:
            self._recall.close()

    def fail(self, error: PortableError) -> list[Delta]:
        """The backend broke: end every request with this error."""
        return [self._end(request, "error", error) for request in list(self._requests.values())]

    def interrupt(self, id: str) -> None:
        """Stop the running decode if most of it is this request's prompt. Any thread may call.

        The others in the batch lose a step's time, nothing else: it is planned again.
        """
        counts = {part.sequence.id: part.size for part in self._in_flight}
        if 2 * counts.get(id, 0) > sum(counts.values()) > 1:
            self.backend.abort()

    def _carry_out(self, moves: list[Move]) -> bool:
        """False when a slot could not be brought back: the step has to be planned again."""
        for at, move in enumerate(moves):
            if isinstance(move, Copy):
                self.backend.copy(move.source, move.slot, move.count)
            elif isinstance(move, Keep):
                self.backend.keep(move.slot, move.count)
            elif not self.backend.load_part(move.slot, move.mark.count, move.mark.state):
                self.scheduler.lose({each.slot for each in moves[at:]})
                return False
        return True

    def _leave_marks(self, slices: list[Slice]) -> None:
        """Copy what cannot be undone where another prompt may part from this one."""
        for sequence in (part.sequence for part in slices):
            if sequence.cached in sequence.pauses:
                state = self.backend.save_part(sequence.slot, self.backend.mark_bytes)
                if state is not None:
                    self.scheduler.mark(sequence, state)

    def _mark_started(self, plan: Plan) -> None:
        for part in plan.slices:
            request = self._requests[part.sequence.id]
            request.started_at = request.started_at or self.clock()

    def _decode(self, plan: Plan) -> npt.NDArray[np.float32] | None:
        """Logits, or None when the step has to be planned again: nothing was committed."""
        self._in_flight = plan.slices
        started = self.clock()
        if self.threads:
            self.backend.use_threads(self.threads.choose(plan, started))
        try:
            logits = self.backend.decode(plan.slices)
            self._learn(plan, self.clock() - started)
            return logits
        except Aborted:
            self._roll_back(plan.slices)
        except CacheFull:
            if not self.scheduler.relieve():
                raise EngineError(
                    "the KV cache is full", hint="start with a larger --context"
                ) from None
        finally:
            self._in_flight = []
        return None

    def _learn(self, plan: Plan, seconds: float) -> None:
        """What this step cost, for the choice of the next ones' sizes and threads."""
        if self.threads:
            self.threads.learn(plan, seconds, self.clock())
        if plan.reading or plan.size == plan.answering:
            self.pace.learn(plan.answering, plan.reading, seconds)
        if not plan.reading:
            self.costs.learn(plan.size, seconds)

    def _drafters(self, draft: DraftModel | None) -> list[Drafter]:
        if not self.backend.can_keep_part:  # wrong guesses could not be taken out of the cache
            return []
        return [*([Lookup()] if self.config.speculate else []), *([draft] if draft else [])]

    def _steps_to_time(self, draft: DraftModel | None) -> list[Calibration]:
        """What guessing is weighed by, and how fast single tokens come."""
        bound = self.config.step_seconds
        if not self.speculator.is_on:
            return [Calibration(self.backend, self.costs, self.clock, bound, SINGLE)]
        timed = [(self.backend, self.costs), *([(draft.backend, draft.costs)] if draft else [])]
        return [Calibration(*pair, self.clock, bound) for pair in timed]

    def _logprobs(self, params: SamplingParams) -> Logprobs | None:
        if params.logprobs is None:
            return None
        return Logprobs(params.logprobs, lambda token: self._piece(token, params), params.begun)

    def _roll_back(self, slices: list[Slice]) -> None:
        for part in slices:
            if self.backend.can_keep_part:
                self.backend.keep(part.sequence.slot, part.sequence.cached)
            else:
                self.scheduler.rewind(part.sequence)

    def _verify(self, part: Slice, logits: npt.NDArray[np.float32]) -> Delta:
        """The next token of one sequence, and those of its draft that it would have drawn."""
        sequence, request = part.sequence, self._requests[part.sequence.id]
        sequence.drafted += len(part.draft)
        texts = []
        for at, row in enumerate(logits):
            delta = self._sample(sequence, row)
            texts.append(delta.text)
            if delta.finish_reason:
                return request.told(replace(delta, text="".join(texts)))
            if not self.speculator.confirms(part, at, sequence.tokens[-1]):
                break
            sequence.cached += 1
            sequence.accepted += 1
        if part.draft:
            self.scheduler.trim(sequence)
        return request.told(Delta(sequence.id, "".join(texts)))

    def _sample(self, sequence: Sequence, logits: npt.NDArray[np.float32]) -> Delta:
        """The next token of one sequence, and the text that it brings."""
        request = self._requests[sequence.id]
        request.first_at = request.first_at or self.clock()
        if sequence.n_output == sequence.params.max_tokens:
            return self._end(request, "length")
        try:
            token = request.sampler.pick(logits)
        except PortableError as error:
            return self._end(request, "error", error)
        if self.backend.is_end(token):
            return self._end(request, "stop")
        sequence.tokens.append(token)
        if request.logprobs:
            request.logprobs.add(token, logits)
        text = request.text.push(self._piece(token, sequence.params))
        if request.text.stopped or request.sampler.finished:
            return self._end(request, "stop", text=text)
        if (
            sequence.n_output == sequence.params.max_tokens
            or len(sequence.tokens) >= self.backend.context
        ):
            return self._end(request, "length", text=text)
        return Delta(sequence.id, text)

    def _piece(self, token: int, params: SamplingParams) -> bytes:
        piece = self.backend.piece(token)
        if piece or not params.shown:
            return piece
        name = self.backend.token_text(token)
        return name.encode() if name in params.shown else b""

    def _end(
        self,
        request: Request,
        reason: FinishReason,
        error: PortableError | None = None,
        text: str = "",
    ) -> Delta:
        sequence = request.sequence
        self.scheduler.finish(sequence, keep=error is None)
        del self._requests[sequence.id]
        told = (error.code or "error", str(error)) if error else None
        text += request.text.flush(cut=reason in ("length", "cancelled"))
        used, stop = request.usage(self.clock()), request.text.stop
        return Delta(sequence.id, text, reason, used, told, stop=stop)
