"""A model as the planner sees it: what each layer takes, weights and memory of the text. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from portable.engine.offload.attention import Attention, is_recurrent
from portable.errors import ModelFileError
from portable.gguf import MOST_LAYERS, Head

CacheType = Literal["f16", "q8_0", "q4_0"]
# Bytes of a value of the KV cache, against f16.
KV_SHARE: dict[CacheType, float] = {"f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}

# Bits a weight, of whole files: what llama.cpp's mixes come to in a model of 8 billion weights.
BITS = {"Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q3_K_M": 4.0, "Q2_K": 3.2}

_BLOCK = re.compile(r"(?:^|\.)blk\.(\d+)\.")
# As llama.cpp's --cpu-moe knows them.
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
# Read by rows, which a GPU does no faster: llama.cpp leaves them on the host.
_INPUT = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")


@dataclass(frozen=True, slots=True)
class Layer:
    """One block; in bytes.

    `experts` are the part of `weights` of which a token reads a few. `cache` is what a token takes
    in an f16 KV cache, `padding` comes to it without flash attention. `state` is what a sequence
    takes however long it is, and `window` how many tokens the layer looks back, 0 for all.
    `largest` is its largest tensor.
    """

    weights: int
    experts: int = 0
    cache: int = 0
    padding: int = 0
    state: int = 0
    window: int = 0
    largest: int = 0


@dataclass(frozen=True)
class Shape:
    """A model; in bytes where nothing else is said.

    `input` stays on the host, `output` is what lies behind the last layer. `tied` is that part of
    both that is one matrix, and is there twice when the output lies on another device.
    Numbers that a token takes while it is computed are the most of any layer: `attention` for its
    queries and keys, `feed_forward`, and `expert_width` for each of the `experts_used`. `logits`
    are those that a row ends with.
    """

    architecture: str
    layers: tuple[Layer, ...]
    input: int
    output: int
    tied: int
    width: int
    logits: int = 0
    heads: int = 0
    attention: int = 0
    feed_forward: int = 0
    expert_width: int = 0
    experts_used: int = 0
    trained_context: int = 0
    quantizes_cache: bool = True
    parameters: int = 0

    @cached_property
    def size(self) -> int:
        """All tensors, each once."""
        return self.input + sum(layer.weights for layer in self.layers) + self.host_output

    @property
    def host_output(self) -> int:
        """What the output takes where the input lies."""
        return self.output - self.tied

    @cached_property
    def has_experts(self) -> bool:
        return any(layer.experts for layer in self.layers)

    def cache(self, kv_type: CacheType = "f16", *, flash: bool = True) -> float:
        """What a token takes in the KV cache."""
        total = sum(layer.cache + (0 if flash else layer.padding) for layer in self.layers)
        return total * KV_SHARE[kv_type]

    @cached_property
    def mask_kinds(self) -> int:
        """Ways to look back at the KV cache; 0 without one."""
        return len({bool(layer.window) for layer in self.layers if layer.cache})

    def quantized(self, quant: str) -> Shape:
        """The same model in one of `BITS`, as if that changed all tensors alike."""
        size = int(self.parameters * BITS[quant] / 8)

        def scaled(count: int) -> int:
            return count * size // max(1, self.size)

        layers = tuple(
            replace(
                layer,
                weights=scaled(layer.weights),
                experts=scaled(layer.experts),
                largest=scaled(layer.largest),
            )
            for layer in self.layers
        )
        return replace(
            self,
            layers=layers,
            input=scaled(self.input),
            output=scaled(self.output),
            tied=scaled(self.tied),
        )

    @cached_property
    def state(self) -> int:
        """What a sequence takes beside the KV cache."""
        return sum(layer.state for layer in self.layers)


class _Sizes:
    """The tensors of all files, in bytes by where they belong."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.layers, self.experts, self.largest = Counter[int](), Counter[int](), Counter[int]()
        self.input = self.output = self.embeddings = 0
        self.recurrent = set[int]()
        self.tensors: dict[str, tuple[int, ...]] = {}
        for tensor in (tensor for head in heads for tensor in head.infos):
            self.tensors[tensor.name] = tensor.shape
            if block := _BLOCK.search(tensor.name):
                self._block(int(block[1]), tensor.name, tensor.bytes)
            elif tensor.name.startswith(_INPUT):
                self.input += tensor.bytes
                self.embeddings += tensor.bytes if tensor.name == "token_embd.weight" else 0
            else:
                self.output += tensor.bytes

    def _block(self, layer: int, name: str, size: int) -> None:
        self.layers[layer] += size
        self.largest[layer] = max(self.largest[layer], size)
        if _EXPERTS.search(name):
            self.experts[layer] += size
        if is_recurrent(name):
            self.recurrent.add(layer)


def shape_of(heads: Sequence[Head]) -> Shape:
    """The shape of a model from the heads of all its files, in order.

    Raises ModelFileError for a tensor of unknown type, and for what is no model.
    """
    sizes, attention = _Sizes(heads), Attention(heads[0].keys)
    count = max(attention.layers, max(sizes.layers, default=-1) + 1)
    if not attention.architecture or not sizes.tensors or count > MOST_LAYERS:
        raise ModelFileError("the file holds no language model", hint="choose another file")
    is_tied = attention.generates and "output.weight" not in sizes.tensors
    tied = sizes.embeddings if is_tied else 0
    vocabulary = sizes.tensors.get("token_embd.weight", (0,))[0]
    return Shape(
        architecture=attention.architecture,
        layers=tuple(_layer(n, sizes, attention) for n in range(count)),
        input=sizes.input,
        output=sizes.output + tied,
        tied=tied,
        width=attention.width,
        logits=vocabulary if attention.generates else 0,
        heads=attention.most("attention.head_count"),
        attention=attention.numbers(bool(sizes.recurrent)),
        feed_forward=attention.most("feed_forward_length"),
        expert_width=attention.most("expert_feed_forward_length")
        or attention.most("feed_forward_length"),
        experts_used=attention.most("expert_used_count"),
        trained_context=attention.most("context_length"),
        quantizes_cache=attention.quantizes_cache,
        parameters=sum(head.parameters for head in heads),
    )


def _layer(number: int, sizes: _Sizes, attention: Attention) -> Layer:
    if number >= attention.trunk:
        # Multi-token prediction, which llama.cpp leaves in the file unless it is asked for it.
        return Layer(0)
    recurrent = number in sizes.recurrent
    return Layer(
        weights=sizes.layers[number],
        experts=sizes.experts[number],
        cache=attention.cache(number, recurrent=recurrent),
        padding=attention.padding(number, recurrent=recurrent),
        state=attention.state if recurrent else 0,
        window=attention.window(number),
        largest=sizes.largest[number],
    )
