"""The checks of a text encoder."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import Tensor

from t2x_core.calls import Calls
from t2x_core.data.repeat import first_difference
from t2x_core.data.text import Tokenizer, cut
from t2x_core.interfaces import TextEncoder
from t2x_core.testing.base import PluginTests, loose_tensors
from t2x_core.types import TextInput, TextTokens

TEXTS = ("a red circle", "", "a large blue square to the left of a small green ring, and a photo", "naïve 円 🙂")
CLOSE = 2e-3
"""Largest difference of tokens that padding may make, of their standard deviation."""


class TextEncoderTests(PluginTests):
    """Checks of a text encoder.

    Example:
        class TestMine(TextEncoderTests):
            plugin = "mine"
            settings = {"dim": 64}
    """

    kind = "text_encoder"

    @property
    def encoder(self) -> TextEncoder:
        """Trains, or else is frozen and in eval mode, as in a run."""
        return self.rig.encoder

    def test_tokenize(self) -> None:
        """tokenize: whole numbers and a mask, padded on the right, with a valid token each, "" included"""
        rig = self.rig
        found = self._tokenized(TEXTS)
        code = type(self.encoder).tokenize
        if found.ids.is_floating_point() or found.mask.dtype != torch.bool:
            raise rig.refuse("ids must be integers, mask bool", "return TextInput(ids, mask)", code)
        if bool((~found.mask[:, :-1] & found.mask[:, 1:]).any()):
            raise rig.refuse("there is padding before a token", "pad on the right", code)

    def test_tokenize_of_one_text(self) -> None:
        """tokenize: a text's own numbers do not depend on the others"""
        together = self._tokenized(TEXTS)
        for i, text in enumerate(TEXTS):
            alone = self._tokenized([text])
            n = int(together.mask[i].sum())
            same = int(alone.mask[0].sum()) == n and torch.equal(alone.ids[0, :n], together.ids[i, :n])
            if not same:
                hint = "cut each text to the longest that is read, by itself"
                raise self.rig.refuse(f'"{text}" has other numbers among others', hint, type(self.encoder).tokenize)

    def test_tokenize_in_a_loader_process(self) -> None:
        """tokenize: works on a copy without weights, which goes through pickle"""
        rig, calls = self.rig, Calls({f"text_encoders.{self.plugin}": self.rig.plugin})
        light = Tokenizer({self.plugin: self.encoder}, calls)
        try:
            light = pickle.loads(pickle.dumps(light))
        except Exception as error:
            hint = "keep what tokenize needs as plain values, not as open files or local functions"
            raise rig.refuse(f"it cannot be pickled: {error}", hint, type(self.encoder)) from error
        found = light(list(TEXTS))[self.plugin]
        if where := first_difference(found, self._tokenized(TEXTS)):
            raise rig.refuse(f"{where} differ in a loader process", "take nothing random", type(self.encoder).tokenize)

    def test_length(self) -> None:
        """length: as long as what is read, up to the longest; longer texts are cut"""
        rig, encoder = self.rig, self.encoder
        if encoder.longest is None:
            return
        long = " ".join(["word"] * (2 * encoder.longest + 8))
        with rig.calls(rig.path, "length", code=type(encoder).length):
            found = encoder.length(long)
        if not isinstance(found, int) or found <= encoder.longest:
            hint = f"count all that the text has, in the unit of longest ({encoder.longest})"
            raise rig.refuse(f"length of a text that is cut is {found}", hint, type(encoder).length)
        self._encoded(self._tokenized([long]))

    def test_its_tokens_are_as_promised(self) -> None:
        """forward: tokens and pooled as wide as dims says, the mask of its input, finite"""
        rig, encoder = self.rig, self.encoder
        given = self._tokenized(TEXTS)
        found = self._encoded(given)
        code = type(encoder).forward
        wanted = (*given.mask.shape[:1], found.mask.shape[1], encoder.dims.tokens)
        if tuple(found.tokens.shape) != wanted or not found.tokens.is_floating_point():
            raise rig.refuse(f"tokens are {tuple(found.tokens.shape)}, not {wanted}", "see dims, and the mask", code)
        if found.mask.dtype != torch.bool or not found.mask.any(1).all():
            raise rig.refuse(
                "the mask must be bool, with a valid token in each row", "return the mask of the input", code
            )
        pooled = None if found.pooled is None else tuple(found.pooled.shape)
        if pooled != ((len(TEXTS), encoder.dims.pooled) if encoder.dims.pooled else None):
            hint = "set dims = TextDims(tokens, pooled)"
            raise rig.refuse(f"pooled is {pooled}, dims says {encoder.dims.pooled}", hint, code)
        if not found.tokens[found.mask].isfinite().all():
            raise rig.refuse("tokens are not finite", "look at its dtype, and at rows that are all padding", code)

    def test_padding_changes_nothing(self) -> None:
        """forward: a text has the same tokens whatever padding and whatever other texts are there"""
        given = self._tokenized(TEXTS)
        whole = self._encoded(given)
        scale = float(whole.tokens[whole.mask].std())
        for i, text in enumerate(TEXTS):
            alone = self._encoded(cut(given.select([i])))
            a, b = alone.tokens[0][alone.mask[0]], whole.tokens[i][whole.mask[i]]
            pairs = (
                [(a, b)]
                if alone.pooled is None or whole.pooled is None
                else [(a, b), (alone.pooled[0], whole.pooled[i])]
            )
            if any(x.shape != y.shape or float((x - y).abs().max()) > CLOSE * scale for x, y in pairs):
                hint = "keep padding out of attention (key_padding_mask) and of means; count positions from the left"
                raise self.rig.refuse(f'the tokens of "{text}" depend on the padding', hint, type(self.encoder).forward)

    def test_texts_differ(self) -> None:
        """forward: different texts have different tokens"""
        found = self._encoded(self._tokenized(TEXTS))
        if torch.equal(found.tokens[0], found.tokens[2]):
            raise self.rig.refuse(
                "different texts have the same tokens", "look at its forward", type(self.encoder).forward
            )

    def test_it_is_repeatable(self) -> None:
        """forward: the same every time"""
        given = self._tokenized(TEXTS)
        torch.manual_seed(1)
        first = self._encoded(given).tokens
        torch.manual_seed(2)
        if not torch.equal(first, self._encoded(given).tokens):
            hint = "no dropout: it would be drawn from a global stream, and a resumed run would differ"
            raise self.rig.refuse("the second time tokens are others", hint, type(self.encoder).forward)

    def test_it_trains_or_is_frozen(self) -> None:
        """weights: all of them train and get a gradient, or none does and it has a name for its origin"""
        rig = self.rig
        encoder: Any = self.encoder
        if not _trains(encoder):
            if any(True for _ in encoder.parameters()) and not encoder.origin:
                hint = "set self.origin: the file, or the name on a hub, that its weights came from"
                raise rig.refuse("it is frozen, and says not where its weights are from", hint, type(encoder))
            return
        made = self.rig.built()
        found = made(self._tokenized(TEXTS))
        weight = torch.randn(found.tokens.shape, generator=torch.Generator().manual_seed(0))
        total: Tensor = (found.tokens * weight)[found.mask].sum()
        if found.pooled is not None:
            total = total + (found.pooled * torch.linspace(-1, 1, found.pooled.shape[1])).sum()
        total.backward()
        for name, parameter in made.named_parameters():
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any()):
                raise rig.refuse(f"{name} gets no gradient", "use it in forward, or remove it", type(encoder))

    def test_its_buffers(self) -> None:
        """buffers: all tensors move with it"""
        if loose := loose_tensors(self.encoder):
            hint = f'write self.register_buffer("{loose[0]}", …)'
            raise self.rig.refuse(f"{loose[0]} is a tensor that stays behind when it moves", hint, type(self.encoder))

    def test_half_precision(self) -> None:
        """dtype: under bf16 autocast, and with weights in bfloat16 if it is frozen, tokens stay near"""
        rig, given = self.rig, self._tokenized(TEXTS)
        exact = self._encoded(given)
        with torch.autocast("cpu", torch.bfloat16):
            self._near(exact, self._encoded(given), "under bf16 autocast")
        if not _trains(self.encoder):
            half = copy.deepcopy(self.encoder).to(torch.bfloat16)
            with torch.no_grad(), rig.calls(rig.path, "forward in bfloat16", code=type(half).forward):
                self._near(exact, half(given), "with weights in bfloat16")

    def _near(self, exact: TextTokens, rough: TextTokens, when: str) -> None:
        a, b = exact.tokens[exact.mask].float(), rough.tokens[rough.mask].float()
        if not b.isfinite().all() or float((a - b).abs().mean()) > 0.1 * float(a.abs().mean()):
            hint = "make tensors in the dtype of the weights; compute norms in float32"
            raise self.rig.refuse(f"tokens are far from those of float32 {when}", hint, type(self.encoder).forward)

    def _tokenized(self, texts: Any) -> TextInput:
        return Tokenizer({self.plugin: self.encoder}, self.rig.calls)(list(texts))[self.plugin]

    def _encoded(self, given: TextInput) -> TextTokens:
        rig = self.rig
        with torch.no_grad(), rig.calls(rig.path, "forward", code=type(self.encoder).forward):
            found = self.encoder(given)
            if not isinstance(found, TextTokens):
                raise TypeError(f"it must return TextTokens, not {type(found).__name__}")
            return found


def _trains(encoder: TextEncoder) -> bool:
    return any(p.requires_grad for p in encoder.parameters())
