"""Latent codecs and text encoders that come with t2x."""

from t2x_core.encoders.byte_words import ByteWords, ByteWordsConfig
from t2x_core.encoders.identity import IdentityCodec, IdentityConfig
from t2x_core.interfaces import Component

CODECS = (Component("identity", IdentityConfig, IdentityCodec),)
TEXT_ENCODERS = (Component("bytes", ByteWordsConfig, ByteWords),)

__all__ = ["CODECS", "TEXT_ENCODERS"]
