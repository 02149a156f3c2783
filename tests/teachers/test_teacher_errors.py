"""Bad teachers are refused early, and each refusal says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from logitstore.errors import InvalidInput, TeacherError
from logitstore.teachers import checkpoint as checkpoint_module
from logitstore.teachers import inspect_teacher, load_teacher, load_tokenizer
from tests.support.tiny_models import make_tiny_teacher


@pytest.fixture
def tiny(tmp_path):
    return make_tiny_teacher(tmp_path / "tiny")


def refusal(function, *arguments, **options):
    with pytest.raises(TeacherError) as caught:
        function(*arguments, **options)
    return caught.value


def test_inspection_reads_no_weights(tiny):
    (tiny / "model.safetensors").write_bytes(b"none")
    info = inspect_teacher(tiny)
    assert (info.model_type, info.logits_width, info.context_length, info.dtype) == ("llama", 320, 64, "float32")
    assert info.is_local
    assert info.commit is None
    info.check_seq_len(64)
    assert refusal(info.check_seq_len, 65).kind == "context-too-short"


@pytest.mark.parametrize("name", ["/no/such/teacher", "./no-such", "a/b/c", "no such", "weights.gguf"])
def test_an_absent_path_is_missing(name):
    error = refusal(inspect_teacher, name)
    assert (error.kind, error.exit_code) == ("teacher-missing", 2)
    assert name in str(error)


def test_an_absent_path_object_is_never_taken_for_a_hub_id():
    assert refusal(inspect_teacher, Path("org/model")).kind == "teacher-missing"


def test_a_folder_without_config_is_missing(tmp_path):
    error = refusal(inspect_teacher, tmp_path)
    assert error.kind == "teacher-missing"
    assert "no config.json" in str(error)


def test_a_folder_without_weights_is_missing(tiny):
    (tiny / "model.safetensors").unlink()
    error = refusal(inspect_teacher, tiny)
    assert error.kind == "teacher-missing"
    assert "no weights" in str(error)


def test_an_unreachable_hub_is_named_without_waiting(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    error = refusal(inspect_teacher, "some-org/some-teacher")
    assert error.kind == "teacher-missing"
    assert "some-org/some-teacher" in str(error)
    assert "cannot be reached" in str(error)


def test_a_refused_connection_means_the_hub_is_unreachable(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # port 9 of this machine: nothing listens, and nothing outside is asked
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert not checkpoint_module.hub_reachable()


def hub_error(name):
    from huggingface_hub import errors

    # made without its constructor, which wants a response of an HTTP library that differs between versions
    kind = getattr(errors, name)
    return kind.__new__(kind, f"{name} from the hub")


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        ("GatedRepoError", "teacher-gated", "hf auth login"),
        ("RepositoryNotFoundError", "teacher-missing", "neither a local path nor a repository"),
        ("RevisionNotFoundError", "teacher-missing", "no revision v9"),
        ("EntryNotFoundError", "teacher-missing", "no config.json"),
        ("LocalEntryNotFoundError", "teacher-missing", "cannot be reached"),
    ],
)
def test_each_answer_of_the_hub_has_its_kind(monkeypatch, raised, kind, words):
    import transformers.utils.hub

    error = hub_error(raised)

    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(checkpoint_module, "hub_reachable", lambda: True)
    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", refuse)
    monkeypatch.setattr("transformers.models.auto.configuration_auto.resolve_revision", lambda *a, **k: "v9")
    found = refusal(inspect_teacher, "org/teacher", revision="v9")
    assert found.kind == kind
    assert words in str(found)


def test_a_bert_is_not_a_causal_lm(tmp_path):
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    error = refusal(inspect_teacher, tmp_path)
    assert (error.kind, error.exit_code) == ("not-a-causal-lm", 2)
    assert "bert (BertForMaskedLM)" in str(error)


def test_a_t5_is_not_a_causal_lm(tmp_path):
    import transformers

    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    error = refusal(inspect_teacher, tmp_path)
    assert error.kind == "not-a-causal-lm"
    assert "encoder-decoder" in str(error)


def test_an_image_model_is_not_a_causal_lm(tmp_path):
    import transformers

    transformers.ViTConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert refusal(inspect_teacher, tmp_path).kind == "not-a-causal-lm"


def test_a_causal_head_on_a_body_that_looks_ahead_is_refused_at_load(tmp_path):
    import transformers

    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
        is_decoder=True,
    )
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    assert load_teacher(tmp_path).logits_width == 50
    config.is_decoder = False
    config.save_pretrained(tmp_path)
    config_text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config_text.replace("{", '{"architectures": ["BertLMHeadModel"],', 1))
    error = refusal(load_teacher, tmp_path)
    assert error.kind == "not-a-causal-lm"
    assert "tokens after a position" in str(error)


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_damaged_weights_are_unreadable(tiny, damage):
    file = tiny / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\xff" * 16 + content[16:])
    error = refusal(load_teacher, tiny)
    assert (error.kind, error.exit_code) == ("teacher-unreadable", 1)
    assert str(tiny) in str(error)


def test_a_damaged_config_is_unreadable(tiny):
    (tiny / "config.json").write_text("{")
    assert refusal(inspect_teacher, tiny).kind == "teacher-unreadable"


def test_missing_weights_are_not_replaced_by_random_ones(tiny):
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    error = refusal(load_teacher, tiny)
    assert error.kind == "teacher-unreadable"
    assert "lm_head.weight" in str(error)


def test_a_damaged_gguf_file_is_unreadable(tmp_path):
    (tmp_path / "teacher.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    error = refusal(inspect_teacher, tmp_path)
    assert error.kind == "teacher-unreadable"
    assert "teacher.gguf" in str(error)


def test_several_gguf_files_are_named(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(InvalidInput, match=r"a\.gguf, b\.gguf.*--gguf-file"):
        inspect_teacher(tmp_path)
    error = refusal(inspect_teacher, tmp_path, gguf_file="c.gguf")
    assert error.kind == "teacher-missing"


def test_a_gguf_path_with_a_second_name_is_refused(tmp_path):
    (tmp_path / "a.gguf").touch()
    with pytest.raises(InvalidInput, match="without gguf_file"):
        inspect_teacher(tmp_path / "a.gguf", gguf_file="a.gguf")


def test_transformers_missing_names_the_extra(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    error = refusal(load_teacher, tiny)
    assert (error.kind, error.exit_code) == ("extra-missing", 2)
    assert "pip install 'logitstore[hf]'" in str(error)


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_what_gguf_needs_missing_names_the_extra(tmp_path, monkeypatch, package):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find_spec(name, *a))
    (tmp_path / "a.gguf").touch()
    error = refusal(inspect_teacher, tmp_path)
    assert error.kind == "extra-missing"
    assert package in str(error)


def test_code_of_the_checkpoints_own_needs_permission(tiny):
    config_text = (tiny / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "own"')
    own = '{"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},'
    (tiny / "config.json").write_text(config_text.replace("{", own, 1))
    with pytest.raises(InvalidInput, match="--trust-remote-code"):
        inspect_teacher(tiny)


def test_an_unknown_dtype_or_device_is_refused_before_loading(tiny):
    (tiny / "model.safetensors").write_bytes(b"none")
    with pytest.raises(InvalidInput, match="float8"):
        load_teacher(tiny, dtype="float8")
    with pytest.raises(InvalidInput, match="abacus"):
        load_teacher(tiny, device="abacus")
    with pytest.raises(InvalidInput, match=f"finds {torch.cuda.device_count()} CUDA"):
        load_teacher(tiny, device="cuda:99")


def test_importing_teachers_loads_no_transformers():
    check = "import sys, logitstore.teachers; sys.exit(bool({'transformers', 'huggingface_hub'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_loading_prints_nothing_and_restores_the_settings(tiny, capfd):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    logging.set_verbosity_info()
    logging.enable_progress_bar()
    capfd.readouterr()
    try:
        load_tokenizer(tiny).encode("long " * 500)
        next(load_teacher(tiny).logit_blocks([torch.tensor([1, 2, 3]).numpy()]))
        assert capfd.readouterr() == ("", "")
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
    finally:
        logging.set_verbosity_warning()
