"""Special ids, whether they are added, merges and chat template, as llama.cpp's gguf-py reads them.

It knows the files' conventions; PyPI's gguf has an older reading of them, so it is not used here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from convert.checkpoint import Checkpoint
from convert.vocab.tokenizer_json import SPECIAL_NAMES, token_text
from convert.vocab.tokens import Keys
from portable.errors import CheckpointError

# GGUF's spelling of each id; there is no key for `cls`.
ID_KEYS = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
}


class Special:
    """Reads once; `keys` are what goes into the GGUF after the merges."""

    def __init__(self, checkpoint: Checkpoint, size: int | None = None) -> None:
        self.checkpoint = checkpoint
        self.size = size
        self.tokenizer = checkpoint.json("tokenizer.json") or {}
        self.settings = checkpoint.json("tokenizer_config.json")
        self.names = list(SPECIAL_NAMES)
        self.ids: dict[str, int] = {}
        self.add: dict[str, bool] = {}
        if self.tokenizer:
            self._post_processors()
        if self.settings:
            self._from_settings(self.settings)
        config = checkpoint.config
        text = config.get("text_config")
        for name in self.names:
            number = config.get(key := f"{name}_token_id")
            if number is None and isinstance(text, dict):
                number = text.get(key)
            self._set_id(name, number)

    def keys(self) -> Keys:
        keys: Keys = {}
        for name, number in self.ids.items():
            if name in ID_KEYS:
                keys[f"tokenizer.ggml.{ID_KEYS[name]}_token_id"] = number
        for name, value in self.add.items():
            if name in ("bos", "eos", "sep"):
                keys[f"tokenizer.ggml.add_{name}_token"] = value
        keys |= self._template_keys()
        keys |= dict(normalizer_keys(self.tokenizer.get("normalizer") or {}))
        return keys

    def merges(self) -> list[str]:
        found = (self.tokenizer.get("model") or {}).get("merges")
        if isinstance(found, list) and found:
            return [_merge(entry) for entry in found]
        return list(_merges_txt(self.checkpoint.text("merges.txt") or ""))

    def _set_id(self, name: str, number: Any) -> None:
        """The first source wins; an id beyond the tokens is not used."""
        if type(number) is not int or name in self.ids:
            return
        if number < 0:
            raise CheckpointError(f"{name}_token_id is {number}")
        if self.size is None or number < self.size:
            self.ids[name] = number

    def _from_settings(self, settings: dict[str, Any]) -> None:
        added = self.tokenizer.get("added_tokens") or []
        by_text = {entry.get("content"): entry.get("id") for entry in reversed(added)}
        for name in self.names:
            value = settings.get(f"add_{name}_token")
            if isinstance(value, bool):
                self.add.setdefault(name, value)
            text = token_text(settings.get(f"{name}_token"))
            if text is not None:
                self._set_id(name, by_text.get(text))

    def _post_processors(self) -> None:
        """What the post-processor adds around a text says whether BOS, EOS and SEP are added."""
        settings = self.settings
        if settings is not None:
            for name, stand_in in (("bos", "cls"), ("eos", "sep")):
                if not settings.get(f"{name}_token") and settings.get(f"{stand_in}_token"):
                    settings[f"{name}_token"] = settings[f"{stand_in}_token"]
        processor = self.tokenizer.get("post_processor") or {}
        for part in processor.get("processors", [processor]):
            kind = part.get("type")
            if kind == "ByteLevel":
                self.add.setdefault("bos", False)
                self.add.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self._roberta(part)
            elif kind == "TemplateProcessing":
                self._template(part)

    def _roberta(self, part: dict[str, Any]) -> None:
        self.add |= {"bos": True, "eos": True, "sep": True}
        for name in ("cls", "sep"):
            if self.settings and not self.settings.get(f"{name}_token"):
                self.settings[f"{name}_token"] = (part.get(name) or [None])[0]

    def _template(self, part: dict[str, Any]) -> None:
        single, pair = part.get("single") or [], part.get("pair") or []
        first = last = None
        if len(single) > 1:
            if first := special_id(single[0]):
                self._leads(first)
            if last := special_id(single[-1]):
                self._ends(last)
        if pair:
            self._between(pair, first, last)

    def _text(self, name: str) -> Any:
        return (self.settings or {}).get(f"{name}_token")

    def _leads(self, first: str) -> None:
        settings = self.settings
        if settings is None:
            self.add["bos"] = True
            return
        if first not in (self._text("bos"), self._text("cls")):
            for name in ("bos", "cls"):
                if not self._text(name):
                    settings[f"{name}_token"] = first
        self.add["bos"] = first in (self._text("bos"), self._text("cls"))

    def _ends(self, last: str) -> None:
        settings = self.settings
        self.add["eos"] = True
        if settings is None or last == self._text("eos"):
            return
        # The named EOS ends a turn, then; the one that the processor adds ends the text.
        spare = next((name for name in ("eot", "eom") if name not in self.names), None)
        if spare:
            self.names.append(spare)
            settings[f"{spare}_token"] = self._text("eos")
        settings["eos_token"] = last

    def _between(self, pair: list[Any], first: str | None, last: str | None) -> None:
        start = 1 if first and special_id(pair[0]) == first else 0
        stop = -1 if last and special_id(pair[-1]) == last else None
        pair = pair[start:stop]
        if not pair or (sequence_id(pair[0]), sequence_id(pair[-1])) != ("A", "B"):
            return
        middle = pair[1:-1]
        if not middle:
            return
        ends = (self._text("sep"), self._text("eos"))
        add = special_id(middle[0]) in ends and special_id(middle[0]) is not None and not last
        if len(middle) == 2:
            add = add or (special_id(middle[1]) is not None and special_id(middle[1]) in ends)
        self.add["sep"] = add
        if add and self.settings and not self._text("sep"):
            self.settings["sep_token"] = self._text("eos")

    def _template_keys(self) -> Keys:
        """The chat template, or the named ones; from a file where the settings have none."""
        if not self.settings:
            return {}
        found = self.settings.get("chat_template", self._template_file())
        if isinstance(found, str):
            return {"tokenizer.chat_template": found} if found else {}
        if not isinstance(found, list):
            return {}
        return named_templates(found)

    def _template_file(self) -> Any:
        default = self.checkpoint.text("chat_template.jinja")
        if default is None:
            return (self.checkpoint.json("chat_template.json") or {}).get("chat_template")
        folder = self.checkpoint.folder / "additional_chat_templates"
        more = sorted(path.name for path in folder.glob("*.jinja")) if folder.is_dir() else []
        if not more:
            return default
        return [{"name": "default", "template": default}] + [
            {
                "name": name.removesuffix(".jinja"),
                "template": self.checkpoint.text(f"additional_chat_templates/{name}"),
            }
            for name in more
        ]


def named_templates(found: list[Any]) -> Keys:
    """`default` is the chat template; others are kept under their names."""
    keys: Keys = {}
    names = []
    for entry in found:
        name, template = entry.get("name", ""), entry.get("template")
        name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in str(name))
        if not name or not isinstance(template, str):
            continue
        if name == "default":
            keys["tokenizer.chat_template"] = template
        else:
            names.append(name)
            keys[f"tokenizer.chat_template.{name}"] = template
    return ({"tokenizer.chat_templates": names} if names else {}) | keys


def special_id(part: Any) -> str | None:
    found = (part.get("SpecialToken") or {}).get("id")
    return found if isinstance(found, str) else None


def sequence_id(part: Any) -> str | None:
    found = (part.get("Sequence") or {}).get("id")
    return found if isinstance(found, str) else None


def normalizer_keys(normalizer: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    kind, key = normalizer.get("type"), "tokenizer.ggml.normalizer"
    if kind == "Lowercase":
        yield f"{key}.lowercase", True
    elif kind == "StripAccents":
        yield f"{key}.strip_accents", True
    elif kind == "BertNormalizer":
        for name in ("lowercase", "strip_accents"):
            if isinstance(normalizer.get(name), bool):
                yield f"{key}.{name}", normalizer[name]
    elif kind == "Sequence":
        for part in normalizer.get("normalizers") or []:
            yield from normalizer_keys(part)


def _merge(entry: Any) -> str:
    """A merge as GGUF writes it: two parts around one space, spaces inside them as byte-level."""
    if isinstance(entry, str):
        return entry
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(p, str) for p in entry):
        return " ".join(part.replace(" ", chr(ord(" ") + 256)) for part in entry)
    raise CheckpointError("tokenizer.json: a merge is neither a text nor a pair")


def _merges_txt(text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n")):
        parts = line.split()
        if len(parts) == 2 and not (number == 0 and line.startswith("#")):
            yield " ".join(parts)
