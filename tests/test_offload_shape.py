"""What a head tells of memory, against llama.cpp's own sums, for every family there is here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from checkpoints import minilm, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from large import LARGE, front
from tiny_encoders import ENCODERS
from tiny_experts import EXPERTS
from tiny_families import TINY
from tiny_recurrent import lfm2, mamba

from convert import Options, convert
from portable import gguf
from portable.engine.buffers import Buffers, read
from portable.engine.dry_run import Request, dry_run, sparse
from portable.engine.native import lib, listen, load_model, start
from portable.engine.offload.compute import Work, estimate
from portable.engine.offload.shape import shape_of
from portable.engine.offload.wish import Wish
from portable.errors import ModelFileError

CELLS, SEQUENCES, ROWS = 4096, 3, 128
MIB = 1 << 20
WRITTEN: dict[str, Callable[[Path], Path]] = {"mamba": mamba, "lfm2": lfm2}


def made(folder: Path, family: str) -> Path:
    output = folder / "model.gguf"
    if family in WRITTEN:
        return WRITTEN[family](output)
    source = minilm() if family == "minilm" else tiny(folder / "source", family)
    return convert(source, output, Options(quant="F16")).path


def loaded(path: Path, **options: Any) -> Buffers:
    """What llama.cpp says that it takes for weights and a context, all on the CPU."""
    start()
    params = lib.llama_model_default_params()
    params.load_mode, params.use_extra_bufts = lib.LLAMA_LOAD_MODE_NONE, False
    nowhere = ctypes.c_void_p()  # other tests leave workers behind, of which none may be asked
    params.devices = ctypes.addressof(nowhere)
    with ExitStack() as stack, listen() as log:
        model = load_model(path, params)
        stack.callback(lib.llama_model_free, model)
        settings = lib.llama_context_default_params()
        given = {"n_ctx": CELLS, "n_batch": ROWS, "n_ubatch": ROWS, "n_seq_max": SEQUENCES}
        for name, value in (given | {"kv_unified": True} | options).items():
            setattr(settings, name, value)
        context = lib.llama_init_from_model(model, settings)
        assert context
        stack.callback(lib.llama_free, context)
        return read("".join(log).splitlines())


@pytest.mark.parametrize("family", [*TINY, *EXPERTS, *ENCODERS, *WRITTEN, "minilm"])
def test_weights_and_memory_are_those_of_llama_cpp(family: str, tmp_path: Path) -> None:
    path = made(tmp_path, family)
    shape = shape_of([gguf.read(path)])
    for flash in (True, False):
        found = loaded(path, flash_attn_type=int(flash))
        # llama.cpp says hundredths of a MiB, of up to two buffers.
        assert sum(found.weights.values()) == pytest.approx(shape.size, abs=0.01 * MIB)
        cache = shape.cache(flash=flash) * CELLS
        assert sum(found.cache.values()) == pytest.approx(cache, abs=0.011 * MIB)
        state = shape.state * SEQUENCES
        assert sum(found.state.values()) == pytest.approx(state, abs=0.006 * MIB)
        assert bool(cache or state) == (family not in ENCODERS and family != "minilm")


def test_a_smaller_cache_is_as_much_smaller_as_llama_cpp_makes_it(smollm2: Path) -> None:
    shape = shape_of([gguf.read(smollm2)])
    for kind, name in ((8, "q8_0"), (2, "q4_0")):
        found = loaded(smollm2, type_k=kind, type_v=kind, flash_attn_type=1)
        cache = CELLS * shape.cache(name)  # type: ignore[arg-type]
        assert found.cache["CPU"] == pytest.approx(cache, abs=0.01 * MIB)


@pytest.mark.parametrize("name", LARGE)
def test_what_is_computed_in_is_close_to_what_llama_cpp_reserves(name: str, tmp_path: Path) -> None:
    contexts = [(8192, 512, 16, 16), (32768, 512, 1, 16), (2048, 64, 4, 4), (8192, 512, 16, 0)]
    asked = [(Wish(c, 0, s, t, outputs=o), -1) for c, t, s, o in contexts]
    asked.append((Wish(8192, 0, 1, 512, outputs=1, flash=False), 0))
    with sparse([front(tmp_path / name, name)]) as path:
        shape = shape_of([gguf.read(path)])
        requests = [
            Request(
                str(path), wish.context, wish.rows, wish.slots, outputs=wish.outputs, flash=flash
            )
            for wish, flash in asked
        ]
        for (wish, _), told in zip(asked, dry_run(requests), strict=True):
            guess = estimate(shape, wish, wish.context, Work(layers=True, output=True))
            # Logits of every row, which only perplexity asks for, come beside more than we count.
            low = 0.97 if wish.outputs else 0.85
            assert low < guess / told.compute["CPU"] < 1.25, (wish, guess, told)


def test_contexts_apart_are_looked_at_one_by_one(smollm2: Path) -> None:
    shape, slots = shape_of([gguf.read(smollm2)]), 4
    wish = Wish(2048, slots=slots, apart=True, flash=False, outputs=slots)
    cells = wish.cells(2048)
    request = Request(str(smollm2), cells, wish.rows, slots, slots, unified=False, flash=0)
    (told,) = dry_run([request])
    guess = estimate(shape, wish, wish.seen(2048), Work(layers=True, output=True))
    assert cells == slots * 2048 and 0.97 < guess / told.compute["CPU"] < 1.15


def test_layers_of_experts_and_windows(tmp_path: Path) -> None:
    shape = shape_of([gguf.read(made(tmp_path, "deepseek_v3"))])
    dense, *others = shape.layers
    assert not dense.experts and all(0 < layer.experts < layer.weights for layer in others)
    (tmp_path / "windows").mkdir()
    gemma = shape_of([gguf.read(made(tmp_path / "windows", "gemma2"))])
    assert [layer.window for layer in gemma.layers] == [64, 0] and gemma.tied == gemma.input
    assert gemma.mask_kinds == 2 and gemma.host_output < gemma.input < gemma.output


def test_a_split_model_is_one(tmp_path: Path, smollm2: Path) -> None:
    head = gguf.read(smollm2)
    halves = [head._replace(infos=head.infos[:100]), head._replace(infos=head.infos[100:])]
    assert shape_of(halves) == shape_of([head])


def test_what_is_no_model_is_refused(smollm2: Path) -> None:
    head = gguf.read(smollm2)
    for other in (
        head._replace(keys={}),
        head._replace(infos=()),
        head._replace(infos=(head.infos[0]._replace(type=99),)),
    ):
        with pytest.raises(ModelFileError):
            shape_of([other])


ATTENTION = "head_count head_count_kv key_length value_length sliding_window shared_kv_layers"
KEYS = st.sampled_from(
    [
        "block_count",
        "embedding_length",
        "nextn_predict_layers",
        "ssm.state_size",
        "attention.sliding_window_pattern",
        *(f"attention.{name}" for name in ATTENTION.split(" ")),
    ]
)
VALUES = st.one_of(
    st.integers(-3, 600),
    st.sampled_from([1 << 32, -(1 << 31), 1.5, True, "x", gguf.Length(9)]),
    st.lists(st.integers(-2, 40), max_size=5).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(keys=st.dictionaries(KEYS, VALUES, max_size=4))
def test_senseless_keys_are_read_or_refused(smollm2: Path, keys: dict[str, Any]) -> None:
    head = gguf.read(smollm2)
    changed = {f"llama.{key}": value for key, value in keys.items()}
    with suppress(ModelFileError):
        assert shape_of([head._replace(keys=head.keys | changed)]).size >= 0


def test_another_quantization_changes_weights_alone(smollm2: Path) -> None:
    shape = shape_of([gguf.read(smollm2)])
    larger = shape.quantized("Q8_0")
    assert larger.size == pytest.approx(shape.parameters * 8.5 / 8, rel=1e-6)
    assert larger.cache() == shape.cache() and larger.layers[0].largest > shape.layers[0].largest
