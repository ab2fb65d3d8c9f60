"""What is asked of a plan: by flags, by the engine's configuration, or by nobody. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from portable.engine.config import EngineConfig, GpuLayers, KvType
from portable.engine.offload.shape import Shape

# llama.cpp rounds a context up to a multiple of this, and so do we.
CELLS = 256


@dataclass(frozen=True, slots=True)
class Wish:
    """`context` counts tokens, which all slots share unless they are `apart`.

    0 asks for the most that is trained and fits, up to `default_context`. `devices` names those
    that may be used, None is every one; `tensor_split` says in which proportion, and `main_gpu`
    which of them alone, counted from 0. `cpu_moe` is how many layers' experts stay on the host.
    A step reads `step_tokens`, and one token of each slot; `outputs` bounds the rows of logits that
    it makes, 0 is one for each of its tokens. `extra` bytes of the host's memory go to an adapter,
    a draft model and the like. `what` is planned for, as users are told. `caps` are bytes of
    devices that cannot be given more, whatever they say is free.
    """

    context: int = 0
    default_context: int = 8192
    slots: int = 1
    step_tokens: int = 512
    apart: bool = False
    kv_type: KvType = "auto"
    flash: bool = True
    gpu_layers: GpuLayers = "auto"
    devices: tuple[str, ...] | None = None
    tensor_split: tuple[float, ...] = ()
    main_gpu: int | None = None
    cpu_moe: GpuLayers = "auto"
    extra: int = 0
    outputs: int = 0
    what: str = "the model"
    caps: dict[str, int] = field(default_factory=dict)

    def longest(self, shape: Shape) -> int:
        """Tokens of the context that is wanted, whether it fits or not."""
        most = self.default_context
        return self.context or min(shape.trained_context or most, most)

    @property
    def rows(self) -> int:
        """Tokens of the largest step."""
        return self.step_tokens + self.slots

    @property
    def sequences(self) -> int:
        """Texts whose state is kept: prompts are saved to disk out of one of their own."""
        return self.slots if self.apart else self.slots + 1

    def cells(self, context: int) -> int:
        """Tokens that the KV cache has room for."""
        return self.seen(context) * (self.slots if self.apart else 1)

    def seen(self, context: int) -> int:
        """Of these, what one token may look back at."""
        return -(-context // CELLS) * CELLS


def wish_of(config: EngineConfig, extra: int = 0) -> Wish:
    """What the configuration of a model that makes text asks for; `extra` as in `Wish`."""
    return Wish(
        context=config.context,
        default_context=config.default_context,
        slots=config.slots,
        step_tokens=config.step_tokens,
        apart=config.deterministic,
        kv_type="f16" if config.deterministic else config.kv_type,
        flash=config.flash_attention != "off" and not config.deterministic,
        gpu_layers=config.gpu_layers,
        devices=config.devices,
        tensor_split=config.tensor_split,
        main_gpu=config.main_gpu,
        cpu_moe=config.cpu_moe,
        extra=extra,
        outputs=max(config.rows, config.slots + config.keeps_prompts),
    )
