"""A model's tokens: texts into ids and back, by llama.cpp itself. Every call is guarded here."""

from __future__ import annotations

import ctypes
from pathlib import Path

from portable.engine.backend import Spelling
from portable.engine.machine import check_file
from portable.engine.native import lib, load_model, start
from portable.errors import EngineError


class Vocabulary:
    """The tokens of a loaded model, which stays its owner's to free."""

    def __init__(self, model: lib.llama_model_p) -> None:
        self._model = model
        self._vocab = lib.llama_model_get_vocab(model)
        self.vocabulary = lib.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def tokenize(self, text: str, *, special: bool, start: bool) -> list[int]:
        # Only strict UTF-8 may go in: bytes above U+10FFFF abort the process.
        data = text.encode("utf-8")
        size = len(data) + 8
        while True:
            ids = (lib.llama_token * size)()
            n = lib.llama_tokenize(self._vocab, data, len(data), ids, size, start, special)
            if n >= 0:
                return list(ids[:n])
            size = -n

    def piece(self, token: int) -> bytes:
        if token not in self._pieces:
            self._pieces[token] = self._render(token)
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        if token not in self._ends:
            self._ends[token] = bool(lib.llama_vocab_is_eog(self._vocab, token))
        return self._ends[token]

    def is_control(self, token: int) -> bool:
        self._check(token)
        return bool(lib.llama_vocab_is_control(self._vocab, token))

    def spelling(self) -> Spelling:
        ids = range(self.vocabulary)
        control = [t for t in ids if lib.llama_vocab_is_control(self._vocab, t)]
        tokens = [self._render(t) for t in ids]
        for token in control:
            tokens[token] = self.token_text(token).encode()
        return Spelling(tokens, control, [t for t in ids if self.is_end(t)])

    def token_text(self, token: int) -> str:
        """The vocabulary's own name of a token; empty for -1, llama.cpp's word for none."""
        if not 0 <= token < self.vocabulary:
            return ""
        return bytes(lib.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    @property
    def start_token(self) -> int | None:
        """The token that the model wants before every text, or None."""
        wanted = lib.llama_vocab_get_add_bos(self._vocab)
        return int(lib.llama_vocab_bos(self._vocab)) if wanted else None

    @property
    def bos_text(self) -> str:
        return self.token_text(lib.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self.token_text(lib.llama_vocab_eos(self._vocab))

    @property
    def control_texts(self) -> list[str]:
        """The texts that name control tokens, such as <|im_end|>."""
        return [
            self.token_text(t)
            for t in range(self.vocabulary)
            if lib.llama_vocab_is_control(self._vocab, t)
        ]

    @property
    def chat_template(self) -> str | None:
        template = lib.llama_model_chat_template(self._model, None)
        return template.decode("utf-8", "replace") if template else None

    @property
    def rerank_template(self) -> str | None:
        """What a reranker reads, with {query} and {document} where they belong."""
        template = lib.llama_model_chat_template(self._model, b"rerank")
        return template.decode("utf-8", "replace") if template else None

    @property
    def pair_frame(self) -> tuple[list[int], list[int], list[int]]:
        """The model's own tokens before, between and after two texts that it reads together."""
        bos, eos = lib.llama_vocab_bos(self._vocab), lib.llama_vocab_eos(self._vocab)
        sep = lib.llama_vocab_sep(self._vocab)
        end = [eos if eos >= 0 else sep] if lib.llama_vocab_get_add_eos(self._vocab) else []
        middle = [sep] if lib.llama_vocab_get_add_sep(self._vocab) else []
        begin = [bos] if lib.llama_vocab_get_add_bos(self._vocab) else []
        frame = begin, end + middle, end
        known = [[token for token in part if token >= 0] for part in frame]  # -1 is no token
        return known[0], known[1], known[2]

    def shown(self, token: int) -> bytes:
        """What one token stands for, or its name where that is nothing."""
        return self.token_text(token).encode() if self.is_control(token) else self.piece(token)

    def metadata(self, key: str) -> str | None:
        """One metadata value as text, or None."""
        size = 256
        buffer = ctypes.create_string_buffer(size)
        n = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
        return buffer.value.decode("utf-8", "replace") if n >= 0 else None

    def _render(self, token: int) -> bytes:
        self._check(token)
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def _check(self, token: int) -> None:
        if not 0 <= token < self.vocabulary:  # a bad id aborts the process
            raise EngineError(f"token {token} is outside the vocabulary")


class Outline(Vocabulary):
    """A file's vocabulary and structure: every tensor is found and its shape checked, none read.

    Raises ModelFileError or UnsupportedModel.
    """

    def __init__(self, path: Path) -> None:
        check_file(path)
        start()
        params = lib.llama_model_default_params()
        params.no_alloc = True
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        nowhere = ctypes.c_void_p()  # the end of a list without devices: none is even asked
        params.devices = ctypes.addressof(nowhere)
        super().__init__(load_model(path, params))
        self.architecture = self.metadata("general.architecture") or ""
        self.parameters = int(lib.llama_model_n_params(self._model))

    def close(self) -> None:
        lib.llama_model_free(self._model)
