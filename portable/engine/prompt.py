"""What a client sends -> token ids for one loaded model; knows nothing of decoding.

Safe to call from several threads while the engine's own thread decodes.
"""

from __future__ import annotations

from typing import Any

from portable.engine.backend import Backend
from portable.engine.template import ChatTemplate, Message, segments
from portable.errors import ContextLengthExceeded, InvalidRequest, PortableError

# No token of any known vocabulary stands for more bytes; tokenizing can take time that grows with
# the square of the length, so a text that cannot fit is refused before.
MAX_BYTES_A_TOKEN = 64


def template_of(vocabulary: Any) -> ChatTemplate | None:
    """A loaded model's own template; None where it was not made for chat. Raises TemplateError."""
    source = vocabulary.chat_template
    if source is None:
        return None
    return ChatTemplate(
        source,
        bos=vocabulary.bos_text,
        eos=vocabulary.eos_text,
        control=vocabulary.control_texts,
    )


class Prompter:
    """Chat messages or raw text -> prompt. `template` None: the model was not made for chat."""

    def __init__(self, backend: Backend, template: ChatTemplate | None) -> None:
        self._backend = backend
        self._template = template

    def chat(self, messages: list[Message], options: dict[str, Any]) -> list[int]:
        """Token ids of a conversation, rendered by the model's template with `options`.

        Raises InvalidRequest, ContextLengthExceeded or TemplateError.
        """
        return self.parse(self.render(messages, options))

    def parse(self, prompt: str) -> list[int]:
        """Token ids of what `render` made."""
        ids: list[int] = []
        for text, special in segments(prompt):
            ids += self._backend.tokenize(text, special=special, start=False)
        return ids

    def render(self, messages: list[Message], options: dict[str, Any]) -> str:
        """The prompt, with what names control tokens in a user's text marked. Raises as `chat`."""
        if self._template is None:
            raise InvalidRequest(
                "this model has no chat template: it was not trained to chat",
                hint="ask /v1/completions, or choose an instruct model",
                param="messages",
            )
        self._check_bytes(sum(_size(message) for message in messages))
        prompt = self._template.render(messages, **options)
        if messages[0].get("role") == "system" and messages[0].get("content") == "":
            prompt = self._without_system(prompt, messages[0], self._template)
        return prompt

    def _without_system(self, prompt: str, system: Message, template: ChatTemplate) -> str:
        """An empty system prompt means none at all, as in ms-swift; templates would write it."""
        try:
            block = template.render([system], add_generation_prompt=False)
        except PortableError:  # a template may want a user's message: then it stays as it is
            return prompt
        if not prompt.startswith(block):
            return prompt
        return (template.bos if block.startswith(template.bos) else "") + prompt[len(block) :]

    def text(self, prompt: str) -> list[int]:
        """Token ids of a raw text, begun as the model wants its texts begun."""
        self._check_bytes(len(prompt.encode("utf-8")))
        return self._backend.tokenize(prompt, special=True, start=True)

    def _check_bytes(self, size: int) -> None:
        limit = min(self._backend.context * MAX_BYTES_A_TOKEN, 2 << 20)
        if size > limit:
            raise ContextLengthExceeded(
                f"the prompt has {size} bytes, the context holds {self._backend.context} tokens",
                hint="shorten the messages or start with a larger --context",
                param="messages",
            )


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8"))
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8
