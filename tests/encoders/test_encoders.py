import pytest
import torch

from t2x_core.encoders.byte_words import ByteWords
from t2x_core.encoders.encoder_config import ByteWordsConfig, IdentityConfig
from t2x_core.encoders.identity import IdentityCodec
from t2x_core.frozen import Codec
from t2x_core.types import Bucket, TextInput


def encode(encoder, texts):
    return encoder(encoder.tokenize(texts))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ByteWords(ByteWordsConfig(dim=16, depth=1, heads=2, max_words=5, word_bytes=4)).eval()


def test_tokens_are_words_and_long_words_are_cut(encoder):
    assert encoder.rows("a lémon") == [[0] * 4, [98, 0, 0, 0], [109, 196, 170, 110], [112, 111, 0, 0]]


def test_every_text_has_a_valid_token_and_too_long_ones_are_cut(encoder):
    text = encode(encoder, ["", "a b", "1 2 3 4 5 6 7 8"])
    assert text.tokens.shape == (3, 6, 16)
    assert text.mask.sum(1).tolist() == [1, 3, 6]


def test_a_text_does_not_depend_on_its_batch(encoder):
    text = "a red circle"
    alone = encode(encoder, [text])
    among = encode(encoder, ["", text, "1 2 3 4 5"]).tokens[1:2]
    torch.testing.assert_close(alone.tokens[alone.mask], among[alone.mask])


def test_padding_can_be_cut(encoder):
    long = encoder.tokenize(["a red circle", ""])
    short = TextInput(long.ids[:, :5], long.mask[:, :5])  # a, red, circ, le behind the start token
    whole, part = encoder(long), encoder(short)
    torch.testing.assert_close(whole.tokens[:, :5][part.mask], part.tokens[part.mask])


def test_different_words_orders_and_spellings_differ(encoder):
    tokens = encode(encoder, ["red circle", "circle red", "red circles"]).tokens
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3
    assert (tokens[0] - tokens[2]).abs().max() > 1e-3


def test_width_and_heads_must_fit():
    with pytest.raises(ValueError, match="10 is no multiple of the 4 heads"):
        ByteWordsConfig(dim=10, heads=4)


def test_identity_codec():
    codec = IdentityCodec(IdentityConfig())
    pixels = torch.rand(2, 3, 1, 8, 8)
    assert codec.decode(codec.encode(pixels)) is pixels
    assert Codec(codec).latent_shape(Bucket(2, 8, 16), separate=False) == (3, 2, 8, 16)
