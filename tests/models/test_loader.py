from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from palma.core.errors import ModelLoadError, SettingsError
from palma.models.loader import LoadedModel, load_model
from palma.models.spec import ModelSpec

from .conftest import ChangeConfig, MakeSettings


def load(folder: Path, make_settings: MakeSettings, **changes: Any) -> LoadedModel:
    return load_model(ModelSpec("tiny", folder), make_settings(**changes))


def refusal(folder: Path, make_settings: MakeSettings, **changes: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder, make_settings, **changes)
    message = caught.value.message
    assert message.startswith("tiny: ")
    assert str(folder) not in message
    assert "\n" not in message
    return message


def test_a_loaded_model_knows_its_window_vocabulary_stops_and_device(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    loaded = load(checkpoint, make_settings)

    assert (loaded.model_id, loaded.max_model_len, loaded.vocab_size) == ("tiny", 64, 272)
    assert loaded.stop_token_ids == {260, 261}
    assert (loaded.choice.device, loaded.choice.dtype) == ("cpu", "float32")
    assert loaded.tokenizer.encode("<|eos|>", parse_special=True) == [260]
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_that_was_asked_for_computes_on_the_cpu(
    dtype: str, checkpoint: Path, make_settings: MakeSettings
) -> None:
    import torch

    loaded = load(checkpoint, make_settings, torch_dtype=dtype)

    logits = loaded.model(torch.tensor([[1, 2, 3]])).logits
    assert str(logits.dtype) == f"torch.{dtype}"
    assert logits.isfinite().all()


@pytest.mark.parametrize(("asked", "expected"), [(None, 64), (16, 16), (64, 64)])
def test_the_operator_may_shrink_the_window(
    asked: int | None, expected: int, checkpoint: Path, make_settings: MakeSettings
) -> None:
    assert load(checkpoint, make_settings, max_model_len=asked).max_model_len == expected


def test_a_window_larger_than_the_models_is_refused(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    with pytest.raises(
        SettingsError, match="MAX_MODEL_LEN=65: this model has a window of 64 tokens"
    ):
        load(checkpoint, make_settings, max_model_len=65)


def test_the_checkpoints_own_sampling_never_leaks_into_a_request(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    ids = {"eos_token_id": [260, 5, 9999], "pad_token_id": -1}
    own = {"temperature": 0.1, "do_sample": True, "top_k": 3, "repetition_penalty": 1.3} | ids
    (checkpoint / "generation_config.json").write_text(json.dumps(own))

    loaded = load(checkpoint, make_settings)

    kept = {k: v for k, v in loaded.model.generation_config.to_diff_dict().items() if v is not None}
    kept.pop("transformers_version", None)
    assert kept == {"eos_token_id": [5, 260, 261], "pad_token_id": 5}
    assert loaded.stop_token_ids == {5, 260, 261}


def test_a_stop_token_that_the_tokenizer_lacks_is_not_its_unknown_token(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    loaded = load(checkpoint, make_settings, convert_tokens_to_ids="<|nowhere|>")

    assert loaded.stop_token_ids == {260}


def test_generating_raises_no_warning_and_logs_none(
    checkpoint: Path, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    loaded = load(checkpoint, make_settings)
    prompt = torch.tensor([[1, 2, 3]])
    caplog.clear()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = loaded.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False
        )

    assert tokens.shape[1] > 3
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_the_log_tells_the_device_the_reason_and_the_seconds(
    checkpoint: Path, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "palma.models.loader"):
        load(checkpoint, make_settings)

    assert "tiny on cpu in float32: The CPU was asked for" in caplog.text
    assert "Loaded tiny in " in caplog.text


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_a_truncated_shard_fails_the_load_at_once_by_its_name(
    sharded_checkpoint: Path, make_settings: MakeSettings
) -> None:
    import transformers  # noqa: F401  # importing it is not part of the load

    shard = sorted(sharded_checkpoint.glob("model-*.safetensors"))[1]
    shorten(shard)
    started = time.monotonic()

    assert shard.name in refusal(sharded_checkpoint, make_settings)

    assert time.monotonic() - started < 5


def test_a_whole_sharded_checkpoint_loads(
    sharded_checkpoint: Path, make_settings: MakeSettings
) -> None:
    assert len(list(sharded_checkpoint.glob("model-*.safetensors"))) > 1

    assert load(sharded_checkpoint, make_settings).vocab_size == 272


def test_a_failed_load_leaves_a_running_model_alone(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    import torch

    running = load(checkpoint, make_settings)
    before = running.model(torch.tensor([[1, 2, 3]])).logits
    shorten(checkpoint / "model.safetensors")

    refusal(checkpoint, make_settings)

    assert torch.equal(running.model(torch.tensor([[1, 2, 3]])).logits, before)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"num_hidden_layers": 3}, "missing model.layers.2"),
        ({"num_hidden_layers": 1}, "unexpected model.layers.1"),
        ({"intermediate_size": 48}, "mismatched model.layers.0.mlp"),
        ({"model_type": "nope"}, "model type `nope`"),
        ({"num_attention_heads": "two"}, "num_attention_heads"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(
    entries: dict[str, Any],
    words: str,
    checkpoint: Path,
    change_config: ChangeConfig,
    make_settings: MakeSettings,
) -> None:
    change_config(**entries)

    assert words in refusal(checkpoint, make_settings)


def test_a_refusal_names_a_few_keys_and_counts_the_rest(
    checkpoint: Path, change_config: ChangeConfig, make_settings: MakeSettings
) -> None:
    change_config(num_hidden_layers=3)

    assert "and 6 more" in refusal(checkpoint, make_settings)


def test_harmless_leftovers_of_old_checkpoints_are_no_reason_to_refuse(
    checkpoint: Path, change_config: ChangeConfig, make_settings: MakeSettings
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    change_config(tie_word_embeddings=True)

    assert load(checkpoint, make_settings).vocab_size == 272


def test_pickled_weights_are_refused_unless_allowed(
    pickled_checkpoint: Path, make_settings: MakeSettings
) -> None:
    assert "ALLOW_PICKLE=true" in refusal(pickled_checkpoint, make_settings)

    assert load(pickled_checkpoint, make_settings, allow_pickle=True).vocab_size == 272


def test_a_truncated_pickle_is_a_clear_refusal_too(
    pickled_checkpoint: Path, make_settings: MakeSettings
) -> None:
    shorten(pickled_checkpoint / "pytorch_model.bin")

    refusal(pickled_checkpoint, make_settings, allow_pickle=True)


def test_remote_code_is_refused_without_running_it_or_reading_stdin(
    checkpoint: Path, change_config: ChangeConfig
) -> None:
    change_config(auto_map={"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"})
    proof = checkpoint / "executed"
    (checkpoint / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    code = (
        "import sys; from pathlib import Path; from palma.core.config import Settings\n"
        "from palma.models.loader import load_model; from palma.models.spec import ModelSpec\n"
        "load_model(ModelSpec('tiny', Path(sys.argv[1])), Settings(device='cpu'))\n"
    )

    with subprocess.Popen(
        [sys.executable, "-c", code, str(checkpoint)],
        stdin=subprocess.PIPE,  # held open: a prompt would wait for ever
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.wait(timeout=60)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == ""
        assert "TRUST_REMOTE_CODE=true" in process.stderr.read()

    assert not proof.exists()


def test_code_beside_a_model_that_needs_none_is_never_run(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    proof = checkpoint / "executed"
    (checkpoint / "custom_generate").mkdir()
    (checkpoint / "custom_generate" / "generate.py").write_text(f"open({str(proof)!r}, 'w')\n")
    path = checkpoint / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    path.write_text(json.dumps(config))
    (checkpoint / "evil.py").write_text(f"open({str(proof)!r}, 'w')\n")

    load(checkpoint, make_settings)

    assert not proof.exists()


@pytest.mark.parametrize(
    "entries",
    [
        {"architectures": ["LlamaForSequenceClassification"]},
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        {"architectures": ["BartForConditionalGeneration"], "model_type": "bart"},
        {"architectures": None, "model_type": "vit"},
    ],
)
def test_a_model_that_does_not_continue_text_is_refused(
    entries: dict[str, Any],
    checkpoint: Path,
    change_config: ChangeConfig,
    make_settings: MakeSettings,
) -> None:
    change_config(**entries)

    assert "not a causal language model" in refusal(checkpoint, make_settings)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    path = checkpoint / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["model"]["vocab"] |= {f"extra{i}": 263 + i for i in range(20)}
    path.write_text(json.dumps(definition))

    assert "do not belong together" in refusal(checkpoint, make_settings)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[]", "config.json does not hold a JSON object"),
        ("tokenizer.json", "{", ""),
        ("tokenizer.json", None, ""),
        ("model.safetensors", None, "there are no weights"),
    ],
)
def test_a_missing_or_malformed_file_is_named(
    name: str, content: str | None, words: str, checkpoint: Path, make_settings: MakeSettings
) -> None:
    if content is None:
        (checkpoint / name).unlink()
    else:
        (checkpoint / name).write_text(content)

    assert words in refusal(checkpoint, make_settings)


def test_a_folder_that_vanished_is_refused(checkpoint: Path, make_settings: MakeSettings) -> None:
    assert "its folder is missing" in refusal(checkpoint / "gone", make_settings)


@pytest.mark.gpu
def test_a_model_lies_on_the_gpu_and_says_the_same_as_on_the_cpu(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    import torch

    on_cpu = load(checkpoint, make_settings)
    on_gpu = load(checkpoint, make_settings, device="auto", torch_dtype="float32")
    prompt = torch.tensor([[1, 2, 3]])

    expected = on_cpu.model(prompt).logits
    found = on_gpu.model(prompt.to("cuda:0")).logits

    assert {parameter.device.type for parameter in on_gpu.model.parameters()} == {"cuda"}
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_a_gpu_computes_in_bfloat16_where_it_can(
    checkpoint: Path, make_settings: MakeSettings
) -> None:
    import torch

    loaded = load(checkpoint, make_settings, device="auto")

    logits = loaded.model(torch.tensor([[1, 2, 3]], device="cuda:0")).logits
    expected = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    assert loaded.choice.dtype == expected
    assert str(logits.dtype) == f"torch.{expected}"
    assert logits.isfinite().all()
