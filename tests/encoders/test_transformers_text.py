"""Text encoders of transformers against the library called directly."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from t2x_core.encoders.encoder_config import TransformersConfig
from t2x_core.encoders.transformers_text import TransformersText
from t2x_core.encoders.weights_config import WeightsConfig
from t2x_core.errors import UserError
from t2x_core.frozen import Frozen, bytes_of, tokens_of
from tests.encoders.tiny_models import save_text_encoder

hf = pytest.importorskip("transformers")
TEXTS = ["a large red circle on the left", "blue square", ""]
MODELS = ["t5", "umt5", "clip", "bert", "qwen2"]


def encoder(folder: Path, **options: Any) -> TransformersText:
    return TransformersText(TransformersConfig(weights=WeightsConfig(folder=folder), **options)).eval()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_tokens_are_those_of_the_library_one_text_at_a_time(name: str, tmp_path: Path) -> None:
    """Padding and batching change nothing: each text alone, through the library, gives the same hidden states."""
    made = encoder(save_text_encoder(tmp_path, name), max_tokens=40)
    text = made.tokenize(TEXTS)
    found = made(text)
    assert found.tokens.shape == (3, text.ids.shape[1], 16)
    assert made.dims.tokens == 16
    library = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel", "clip": "CLIPTextModel"}.get(name, "AutoModel")
    model = getattr(hf, library).from_pretrained(tmp_path).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path)
    for i, one in enumerate(TEXTS):
        ids = tokenizer(one, return_tensors="pt").input_ids.long()
        if ids.shape[1] == 0:  # a language model reads nothing of "": one end token stands for it
            ids = torch.tensor([[tokenizer.eos_token_id]])
        assert text.mask[i].sum() == ids.shape[1]
        output = model(ids)
        torch.testing.assert_close(found.tokens[i, : ids.shape[1]], output.last_hidden_state[0], rtol=1e-4, atol=1e-4)
        if name == "clip":
            assert found.pooled is not None
            torch.testing.assert_close(found.pooled[i], output.pooler_output[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_layer_pooling_template_chat_and_skipping(tmp_path: Path) -> None:
    folder = save_text_encoder(tmp_path, "qwen2", chat=True)
    model = hf.Qwen2Model.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)

    def states(text: str, layer: int) -> torch.Tensor:
        return model(tokenizer(text, return_tensors="pt").input_ids, output_hidden_states=True).hidden_states[layer][0]

    made = encoder(folder, layer=-2, pooled="mean", template="photo of {}", skip_tokens=9)
    found = made(made.tokenize(["a red circle"]))
    wanted = states("photo of a red circle", -2)[9:]
    torch.testing.assert_close(found.tokens[0], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.pooled[0], wanted.mean(0), rtol=1e-4, atol=1e-4)  # type: ignore[index]
    assert made.dims.pooled == 16

    chatting = encoder(folder, chat=True)
    found = chatting(chatting.tokenize(["a red circle"]))
    torch.testing.assert_close(found.tokens[0], states("caption : a red circle .", -1), rtol=1e-4, atol=1e-4)


def test_long_captions_are_cut_and_keep_their_end(tmp_path: Path) -> None:
    made = encoder(save_text_encoder(tmp_path), max_tokens=5)
    text = made.tokenize(["red " * 50, "red"])
    assert text.ids.shape == (2, 5)
    assert text.ids[0, -1] == made.tokenizer.convert_tokens_to_ids("</s>")


def test_frozen_half_precision_and_picklable_without_weights(tmp_path: Path) -> None:
    made = encoder(save_text_encoder(tmp_path), dtype="bfloat16")
    assert not any(p.requires_grad for p in made.parameters())
    found = made(made.tokenize(TEXTS))
    assert found.tokens.dtype == torch.float32
    again = pickle.loads(pickle.dumps(made.tokenizer))
    assert again(TEXTS[0])["input_ids"] == made.tokenizer(TEXTS[0])["input_ids"]


def test_training_in_bf16_leaves_a_frozen_encoder_its_own_precision(tmp_path: Path) -> None:
    """Else tokens that are encoded while training are others than those of the cache."""
    made = encoder(save_text_encoder(tmp_path))
    text = made.tokenize(TEXTS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded, exact = made(text).tokens, tokens_of(Frozen(made), text, torch.device("cpu")).tokens
    with torch.no_grad():
        assert torch.equal(exact, made(text).tokens)
    assert not torch.equal(exact, rounded)


def test_an_encoder_on_a_device_of_its_own_gets_texts_there_and_gives_tokens_where_they_are_wanted(
    tmp_path: Path,
) -> None:
    made = encoder(save_text_encoder(tmp_path), device="cpu")
    text, meta = made.tokenize(TEXTS), torch.device("meta")
    found = tokens_of(Frozen(made), text, meta)
    assert found.tokens.device == meta
    assert {p.device.type for p in made.parameters()} == {"cpu"}


def test_eight_bits_take_half_the_memory_of_bfloat16_and_stay_near(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    folder = save_text_encoder(tmp_path)
    plain, half, small = (encoder(folder, dtype=dtype) for dtype in ("float32", "bfloat16", "int8"))
    text = plain.tokenize(TEXTS)
    with torch.no_grad():
        tokens = [made(text).tokens for made in (plain, half, small)]
    rounding = (tokens[1] - tokens[0]).abs().max()
    assert 0 < (tokens[2] - tokens[0]).abs().max() < 5 * rounding
    linear = [m.weight for m in half.modules() if isinstance(m, torch.nn.Linear)]
    saved = sum(w.numel() - 8 * len(w) for w in linear)  # a byte less each, but a scale and a zero for each row
    assert bytes_of(small) <= bytes_of(half) - saved
    assert Frozen(small).record() == Frozen(encoder(folder, dtype="int8")).record() != Frozen(half).record()


class TestMistakes:
    def test_no_such_device(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="'gpu' is no device") as caught:
            encoder(save_text_encoder(tmp_path), device="gpu")
        assert caught.value.key == "device"

    def test_more_tokens_than_the_model_reads(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="reads 77 tokens") as caught:
            encoder(save_text_encoder(tmp_path, "clip"), max_tokens=120)
        assert caught.value.key == "max_tokens"

    def test_no_such_layer(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="3 layers"):
            encoder(save_text_encoder(tmp_path), layer=-5)

    def test_no_chat_template(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no chat template"):
            encoder(save_text_encoder(tmp_path, "qwen2"), chat=True)

    def test_template_without_the_caption(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="once"):
            encoder(save_text_encoder(tmp_path), template="photo")

    def test_pickled_weights_are_refused(self, tmp_path: Path) -> None:
        folder = save_text_encoder(tmp_path)
        state = hf.T5EncoderModel.from_pretrained(folder).state_dict()
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
        with pytest.raises(UserError, match="cannot be loaded"):
            encoder(folder)

    def test_code_of_a_stranger_is_not_run(self, tmp_path: Path) -> None:
        folder = save_text_encoder(tmp_path)
        (folder / "evil.py").write_text("raise SystemExit('ran')")
        (folder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoModel": "evil.Model"}}')
        with pytest.raises(UserError, match="cannot be loaded"):
            encoder(folder)
