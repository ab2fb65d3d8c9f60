"""Verification: right files pass, and each way in which a file can be wrong is found and named."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import minilm, smollm2, tiny
from tiny_tokenizers import LLAMA3_SPLIT, QWEN_SPLIT

from convert import Options, convert
from convert.vocab import reference
from portable import gguf
from portable.errors import CheckpointError
from portable.verify import Verdict, accepting, verify

ROOT = Path(__file__).parents[1]


def statuses(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.status for check in verdict.checks}


def detail(verdict: Verdict, name: str) -> str:
    return next(check.detail for check in verdict.checks if check.name == name)


ALL = ("file", "values", "load", "tokens", "template", "generation")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny(tmp_path / "model", "qwen2")


@pytest.fixture
def made(folder: Path, tmp_path: Path) -> Path:
    return convert(folder, tmp_path / "made.gguf").path


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral"])
def test_a_converted_file_passes(family: str, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", family)
    verdict = verify(convert(folder, tmp_path / "out.gguf").path, folder)
    assert statuses(verdict) == dict.fromkeys(ALL, "PASS")


def test_real_weights_pass(tmp_path: Path) -> None:
    folder = smollm2(tmp_path / "SmolLM2")
    path = convert(folder, tmp_path / "out.gguf", Options(quant="Q4_0")).path
    verdict = verify(path, folder)
    assert statuses(verdict) == dict.fromkeys(ALL, "PASS")
    assert "134.5 M parameters" in detail(verdict, "load")


def test_an_encoder_passes_but_for_scripts_that_llama_cpps_word_piece_splits_otherwise(
    tmp_path: Path,
) -> None:
    path = convert(minilm(), tmp_path / "out.gguf", Options(quant="Q8_0")).path
    verdict = verify(path, minilm())
    found = statuses(verdict)
    assert (found["tokens"], found["template"], found["generation"]) == ("NOTE", "SKIP", "SKIP")
    assert not verdict.failed


def test_a_file_made_elsewhere_has_no_checksum_and_no_checkpoint(smollm2: Path) -> None:
    found = statuses(verify(smollm2))
    assert (found["file"], found["tokens"]) == ("SKIP", "SKIP")
    assert found["generation"] == "PASS"


def test_the_probe_has_all_kinds_of_text() -> None:
    texts = json.loads(reference.PROBE.read_text("utf-8"))
    core = "\n".join(texts["core"])
    assert len(texts["core"]) + len(texts["other"]) > 200
    for part in ("你好", "👩🏿‍🚀", "def area", "12345678901234567890", " " * 64, "\r\n", "\t\t"):
        assert part in core


def damage(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_flipped_bit_is_found(made: Path, folder: Path) -> None:
    last = made.stat().st_size - 40
    damage(made, last, bytes([made.read_bytes()[last] ^ 1]))
    verdict = verify(made, folder)
    assert [check.name for check in verdict.failed] == ["file"]
    assert "SHA-256 differs" in detail(verdict, "file")


def test_a_nan_is_found_and_its_tensor_named(folder: Path, tmp_path: Path) -> None:
    made = convert(folder, tmp_path / "made.gguf", Options(quant="F32")).path
    head = gguf.read(made)
    norm = next(info for info in head.infos if info.name == "output_norm.weight")
    damage(made, head.start + norm.offset, b"\0\0\xc0\x7f")
    verdict = verify(made)
    assert "output_norm.weight" in detail(verdict, "values")
    assert {"values", "generation"} <= {check.name for check in verdict.failed}
    assert "not finite" in detail(verdict, "generation")


def test_a_cut_file_is_found(made: Path) -> None:
    os.truncate(made, made.stat().st_size - 5000)
    verdict = verify(made)
    assert statuses(verdict) == {
        "file": "FAIL", "values": "SKIP", "load": "FAIL",
        "tokens": "SKIP", "template": "SKIP", "generation": "SKIP",
    }  # fmt: skip


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after), "utf-8")


def test_another_splitter_is_found_and_a_text_named(made: Path, folder: Path) -> None:
    edit(folder / "tokenizer.json", json.dumps(QWEN_SPLIT), json.dumps(LLAMA3_SPLIT))
    verdict = verify(made, folder)
    assert [check.name for check in verdict.failed] == ["tokens"]
    assert "split otherwise than by tokenizer.json, one is '" in detail(verdict, "tokens")


def test_other_tokens_around_a_text_are_found(made: Path, folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    token = data["added_tokens"][0]
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token["content"], "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token["content"]: {
            "id": token["content"], "ids": [token["id"]], "tokens": [token["content"]]}},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    verdict = verify(made, folder)
    assert "2 of " in detail(verdict, "tokens") and verdict.failed


def with_template(folder: Path, template: str) -> Path:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8")) | {"chat_template": template}
    path.write_text(json.dumps(settings), "utf-8")
    return convert(folder, folder.parent / "out.gguf").path


def test_a_template_without_a_system_role_is_worth_a_note(folder: Path) -> None:
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('No system.') }}{% endif %}x"
    verdict = verify(with_template(folder, refuse), folder)
    assert statuses(verdict)["template"] == "NOTE"
    assert "No system." in detail(verdict, "template")


def test_a_template_that_fails_is_found(folder: Path) -> None:
    verdict = verify(with_template(folder, "{{ messages[0].content / 0 }}"), folder)
    assert statuses(verdict)["template"] == "FAIL"
    assert statuses(verdict)["generation"] == "SKIP"


def test_an_abort_of_llama_cpp_ends_the_child_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny(tmp_path / "model", "mistral")
    edit(folder / "tokenizer.json", '"<0x', '"<1x')  # no byte tokens: llama.cpp aborts at first use
    monkeypatch.setattr("convert.vocab.check", lambda vocab, size: None)
    verdict = verify(convert(folder, tmp_path / "out.gguf").path, folder)
    assert "SIGABRT" in detail(verdict, "tokens")
    assert [check.name for check in verdict.failed] == ["tokens"]


def test_a_large_file_is_loaded_but_does_not_generate(made: Path, folder: Path) -> None:
    found = statuses(verify(made, folder, generate_up_to=1000))
    assert (found["load"], found["generation"]) == ("PASS", "SKIP")


def test_progress_ends_at_the_files_size(made: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    verify(made, report=lambda phase, done, total, _: seen.append((phase, done, total)))
    assert seen[-1] == ("verify", made.stat().st_size, made.stat().st_size)


def test_what_is_said_in_brief(made: Path, folder: Path) -> None:
    said: list[str] = []
    accepting(said.append, lambda *_: None, brief=True)(made, folder)
    assert said == ["verified: file, values, load, tokens, template, generation"]


def portable(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "portable.cli", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_file_that_fails_does_not_take_the_targets_place(folder: Path, tmp_path: Path) -> None:
    with_template(folder, "{{ messages[0].content / 0 }}")
    target = tmp_path / "target" / "x.gguf"
    target.parent.mkdir()
    target.write_bytes(b"earlier")
    refused = portable("convert", folder, "--output", target)
    assert refused.returncode == 3
    assert "FAIL template" in refused.stderr and "--no-verify" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert target.read_bytes() == b"earlier"
    assert [path.name for path in target.parent.iterdir()] == ["x.gguf"]
    kept = portable("convert", folder, "--output", target, "--no-verify")
    assert kept.returncode == 0 and "PASS" not in kept.stderr
    again = portable("verify", target, "--checkpoint", folder)
    assert again.returncode == 3
    assert "PASS tokens" in again.stdout and "FAIL template" in again.stdout


def test_verify_says_what_is_no_file(tmp_path: Path) -> None:
    missing = portable("verify", tmp_path / "no.gguf")
    assert missing.returncode == 2 and "no such file" in missing.stderr


def test_verify_says_that_the_named_checkpoint_is_no_folder(made: Path, tmp_path: Path) -> None:
    found = portable("verify", made, "--checkpoint", tmp_path / "nowhere")
    assert found.returncode == 2 and "no such folder" in found.stderr and not found.stdout


def test_a_tokenizer_on_which_the_library_panics_is_told(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "xlm_roberta")
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    data["normalizer"]["precompiled_charsmap"] = "{}"
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(CheckpointError, match="malformed"):
        reference.Reference(folder)


def test_damaged_files_get_a_verdict(folder: Path, made: Path) -> None:
    rng = random.Random(0)
    good = made.read_bytes()
    for _ in range(12):
        data = bytearray(good)
        for _ in range(3):
            data[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        made.write_bytes(bytes(data))
        assert verify(made, folder).failed


def test_added_tokens_without_tokenizer_model_are_matched_as_the_file_flags_them(
    tmp_path: Path,
) -> None:
    folder = tiny(tmp_path / "model", "mistral")
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    pieces = [t for t in data["model"]["vocab"] if len(t) > 1 and t.isalpha()][-2:]
    for piece, special in zip(pieces, (True, False), strict=True):  # ids that are taken already
        number = data["model"]["vocab"].pop(piece)
        data["model"]["vocab"][f"[{piece}{piece}]"] = number
        entry = {"id": number, "content": f"[{piece}{piece}]", **flags, "special": special}
        data["added_tokens"].append(entry)
    data["model"]["merges"] = [
        m for m in data["model"]["merges"] if m.replace(" ", "") not in pieces
    ]
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    verdict = verify(convert(folder, tmp_path / "out.gguf").path, folder)
    assert statuses(verdict)["tokens"] == "PASS", detail(verdict, "tokens")


def test_a_space_before_the_first_word_only_is_beyond_llama_cpp(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "mistral")
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text("utf-8")) | {"normalizer": None}
    data["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
    }  # fmt: skip
    path.write_text(json.dumps(data), "utf-8")
    verdict = verify(convert(folder, tmp_path / "out.gguf").path, folder)
    assert statuses(verdict)["tokens"] == "NOTE"
    assert "only before the first word" in detail(verdict, "tokens")


def test_a_reason_does_not_name_a_file_that_is_not_in_its_place_yet(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "bert")
    done = portable("convert", folder, "--output", tmp_path / "x.gguf")
    assert done.returncode == 0, done.stderr
    assert "SKIP generation: the file is an encoder" in done.stderr
    assert ".partial" not in done.stderr
