"""One loaded model, ready to answer: backend, template, engine and worker put together."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from portable.engine import thought
from portable.engine.backend import Loading, ModelInfo
from portable.engine.config import EngineConfig
from portable.engine.draft import load_draft
from portable.engine.embedding.embedder import Embedder
from portable.engine.embedding.kind import kind_of, wrong_model
from portable.engine.embedding.pooled import Pooled
from portable.engine.embedding.worker import Turn
from portable.engine.engine import Engine
from portable.engine.fallback import stepping_down
from portable.engine.grammar import Grammars
from portable.engine.inspection import examine
from portable.engine.llama import Llama
from portable.engine.prompt import Prompter, template_of
from portable.engine.prompts.cache import PromptCache
from portable.engine.protocol import Generate
from portable.engine.sampling import Constraint
from portable.engine.sequence import SamplingParams
from portable.engine.template import Message
from portable.engine.worker import Deliver, Worker
from portable.errors import PortableError, UnsupportedModel

log = logging.getLogger("portable")

# A batch of vectors lies between any two tokens of an answer, which a prompt's chunks do only for
# a short while: it takes this part of their time, so that thousands of texts leave a usable stream.
_TURN_SHARE = 4


class Service:
    """Loads a model in its constructor; raises what `Llama` and `ChatTemplate` raise."""

    def __init__(
        self, config: EngineConfig, deliver: Deliver, loading: Loading | None = None
    ) -> None:
        if kind_of(config).task != "generate":
            raise UnsupportedModel(
                f"{config.model.name} makes embeddings or scores, not text",
                hint="choose a model that generates text",
            )
        self._config = config
        self._llama = self.weights = stepping_down(
            config, lambda fallback: Llama(config, loading, fallback=fallback)
        )
        self.info: ModelInfo = self._llama.info()
        self.offload_reason = self._llama.plan.reason
        self.template = self._llama.chat_template or ""
        template = template_of(self._llama)
        self.prompter = Prompter(self._llama, template)
        self._grammars = Grammars(self._llama)
        self.threads = self._llama.spare_threads(config)
        prompts = self._prompts(config)
        self._draft = load_draft(self._llama, config, self.threads) if config.draft else None
        if config.draft:
            self.info = replace(self._llama.info(), draft=config.draft.name)
        self.findings = examine(config, self.info.places)
        engine = Engine(
            self._llama, config, prompts=prompts, draft=self._draft, threads=self.threads
        )
        self.worker = Worker(engine, deliver)
        self.turn: Turn = self.worker.between

    def embedder(self) -> Embedder:
        """On a second context of the same weights. Raises NotEnoughMemory or WrongModel."""
        if self._config.pooling == "none":
            raise wrong_model("generate")
        threads = self._llama.spare_threads(self._config)
        seconds = self._config.step_seconds / _TURN_SHARE
        return Embedder(Pooled(self._llama, self._config), seconds, threads)

    def _prompts(self, config: EngineConfig) -> PromptCache | None:
        """Prefixes on disk, if they are wanted."""
        if not (config.prompt_cache and config.keeps_prompts):
            return None
        try:
            identity = self._llama.identity(config)
        except (OSError, PortableError) as error:
            log.warning("prompts are not saved: %s", error)
            return None
        return PromptCache(config.prompt_cache, identity, config.prompt_cache_bytes)

    def chat_tokens(self, messages: list[Message], options: dict[str, Any]) -> list[int]:
        """A conversation as the model's template writes it. Any thread may call."""
        return self.prompter.chat(messages, options)

    def text_tokens(self, prompt: str) -> list[int]:
        """A raw text as token ids. Any thread may call."""
        return self.prompter.text(prompt)

    def prepare(self, asked: Generate) -> tuple[list[int], SamplingParams, Constraint | None]:
        """A request's prompt as tokens, and what holds its answer. Any thread may call.

        Raises InvalidRequest, ContextLengthExceeded or TemplateError.
        """
        if asked.messages is not None:
            tokens = self.chat_tokens(asked.messages, asked.options)
        elif isinstance(asked.prompt, str):
            tokens = self.text_tokens(asked.prompt)
        else:
            tokens = asked.prompt or []
        params = asked.params
        answer: Constraint | None = None
        if params.grammar:
            answer = self._grammars.compile(params.grammar)
        tokens, thinking = thought.begin(tokens, params.thinking, asked.begun, self._llama)
        if thinking and (answer or thinking.budget is not None):
            answer = thought.Thought(thinking, self._llama, answer)
        return tokens, replace(params, thinking=thinking), answer

    def chat(
        self, id: str, messages: list[Message], options: dict[str, Any], params: SamplingParams
    ) -> int:
        """Queue a conversation; returns the prompt's number of tokens."""
        tokens, params, answer = self.prepare(Generate(id, params, messages, options))
        self.worker.submit(id, tokens, params, answer)
        return len(tokens)

    def close(self) -> None:
        self.worker.close()
        if self._draft:
            self._draft.close()
        self._llama.close()
