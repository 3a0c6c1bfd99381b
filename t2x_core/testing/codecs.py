"""The checks of a latent codec."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2x_core.frozen import Codec
from t2x_core.testing.base import PluginTests, loose_tensors
from t2x_core.testing.rig import smooth
from t2x_core.types import Bucket


class CodecTests(PluginTests):
    """Checks of a codec.

    Example:
        class TestMine(CodecTests):
            plugin = "mine"
            settings = {"weights": "vae"}
    """

    kind = "codec"
    round_trip: ClassVar[float | None] = 0.25
    """Largest mean error of pixels after encode and decode, of a range of 2; None: not judged (random weights)."""
    scale: ClassVar[tuple[float, float] | None] = (0.1, 10.0)
    """Standard deviations that latents may have; None: not judged."""
    size: ClassVar[int] = 64
    """Least height and width of images to try, in pixels."""

    @property
    def codec(self) -> Codec:
        """As the core calls it."""
        return self.rig.codec

    def test_its_settings_say_what_it_is(self) -> None:
        """channels, spatial_factor and frame_factor are as its settings say"""
        rig, codec, config = self.rig, self.codec.part, self.rig.config
        for name in ("channels", "spatial_factor", "frame_factor"):
            value = getattr(codec, name, None)
            if not isinstance(value, int) or value < 1:
                raise rig.refuse(
                    f"{name} is {value!r}", f"set the attribute {name} to a number of at least 1", type(codec)
                )
        for name in ("spatial_factor", "frame_factor"):
            said, real = getattr(config, name), getattr(codec, name)
            if said not in (None, real):
                raise rig.refuse(f"its settings say {name} {said}, the codec {real}", "make them agree", type(config))

    def test_its_shapes(self) -> None:
        """encode: latents of the promised shape and back, for several sizes and, if it compresses time, for videos"""
        codec, rig = self.codec, self.rig
        for pixels in self._inputs():
            shape = codec.latent_shape(Bucket(*pixels.shape[2:]), False)
            with rig.calls(rig.path, "encode", code=codec.part.encode):
                latents = codec.encode(pixels, False)
            if latents.shape[1:] != shape:
                raise ValueError(f"latents are {tuple(latents.shape)}, not {shape}")
            with rig.calls(rig.path, "decode", code=codec.part.decode):
                decoded = codec.decode(latents, False)
            if decoded.shape != pixels.shape:
                raise rig.refuse(
                    f"decode makes {tuple(decoded.shape)} of the latents of {tuple(pixels.shape)}",
                    "return pixels of the shape that was encoded",
                    type(codec.part).decode,
                )

    def test_it_is_repeatable(self) -> None:
        """encode and decode: the same every time, and for a sample alone as in a batch"""
        rig, codec = self.rig, self.codec
        pixels = self._inputs()[0]
        torch.manual_seed(1)
        first = codec.encode(pixels, False)
        torch.manual_seed(2)
        hint = "return the mean of the distribution, not a sample of it; no dropout, no global random numbers"
        if not torch.equal(first, codec.encode(pixels, False)):
            raise rig.refuse("encode gives other latents the second time", hint, type(codec.part).encode)
        if not torch.equal(codec.decode(first, False), codec.decode(first, False)):
            raise rig.refuse("decode gives other pixels the second time", hint, type(codec.part).decode)
        alone = codec.encode(pixels[:1], False)
        if not torch.allclose(alone, first[:1], rtol=1e-2, atol=1e-2 * float(first.std())):
            hint = "samples must not meet: no statistics over the batch (BatchNorm in train mode)"
            raise rig.refuse("encode of a sample depends on the batch around it", hint, type(codec.part).encode)

    def test_it_stays_in_eval_mode(self) -> None:
        """mode: it stays in eval mode, and wants no gradient"""
        rig, codec = self.rig, self.codec
        codec.decode(codec.encode(self._inputs()[0], False), False)
        training = [name or "itself" for name, module in codec.part.named_modules() if module.training]
        if training:
            hint = "call no .train() in encode or decode"
            raise rig.refuse(f"{training[0]} is in train mode after a call", hint, type(codec.part).encode)
        if wanting := [name for name, p in codec.part.named_parameters() if p.requires_grad]:
            raise rig.refuse(f"{wanting[0]} wants a gradient after a call", "a codec is frozen", type(codec.part))

    def test_the_scale_of_its_latents(self) -> None:
        """scale: latents are finite, with a standard deviation near to 1"""
        latents = self.codec.encode(self._inputs()[0], False)
        code = type(self.codec.part).encode
        if not latents.isfinite().all():
            raise self.rig.refuse("latents are not finite", "look at its dtype: some VAEs overflow in float16", code)
        found = float(latents.std())
        if self.scale is not None and not self.scale[0] <= found <= self.scale[1]:
            hint = f"multiply latents by about {1 / max(found, 1e-6):.3g} in encode, and divide in decode"
            raise self.rig.refuse(f"latents have a standard deviation of {found:.3g}", hint, code)

    def test_its_round_trip(self) -> None:
        """decode(encode(pixels)) is near to the pixels, in [-1, 1]"""
        if self.round_trip is None:
            return
        for pixels in self._inputs():
            again = self.codec.decode(self.codec.encode(pixels, False), False)
            error = float((again - pixels).abs().mean())
            if not error <= self.round_trip:
                hint = "encode takes pixels in [-1, 1], decode gives them back; for random weights: --untrained"
                raise self.rig.refuse(
                    f"pixels differ by {error:.2f} on average after encode and decode",
                    hint,
                    type(self.codec.part).decode,
                )

    def test_its_buffers(self) -> None:
        """buffers: all tensors move with it, and a copy with the same weights computes the same"""
        rig, part = self.rig, self.codec.part
        if loose := loose_tensors(part):
            hint = f'write self.register_buffer("{loose[0]}", …)'
            raise rig.refuse(f"{loose[0]} is a tensor that stays behind when the codec moves", hint, type(part))
        pixels = self._inputs()[0]
        other = Codec(copy.deepcopy(part))
        if not torch.equal(other.encode(pixels, False), self.codec.encode(pixels, False)):
            raise rig.refuse("a copy of it gives other latents", "keep no state outside of the module", type(part))

    def test_half_precision(self) -> None:
        """dtype: with weights in bfloat16 it takes pixels of that dtype, and latents stay near"""
        rig, codec = self.rig, self.codec
        pixels = self._inputs()[0]
        exact = codec.encode(pixels, False)
        half: Any = copy.deepcopy(codec.part).to(torch.bfloat16)
        rough = Codec(half)
        with rig.calls(rig.path, "encode in bfloat16", code=half.encode):
            latents = rough.encode(pixels, False)
        with rig.calls(rig.path, "decode in bfloat16", code=half.decode):
            rough.decode(latents, False)
        if latents.dtype != torch.float32 or not _near(latents, exact):
            hint = "make tensors in the dtype of the weights, not in one of your own"
            raise rig.refuse("latents of bfloat16 weights are far from those of float32", hint, type(codec.part).encode)

    def test_under_autocast(self) -> None:
        """dtype: autocast around it changes nothing"""
        pixels = self._inputs()[0]
        exact = self.codec.encode(pixels, False)
        with torch.autocast("cpu", torch.bfloat16):
            found = self.codec.encode(pixels, False)
        if not torch.equal(exact, found):
            hint = "the core calls it without autocast: enter none in encode"
            raise self.rig.refuse("latents differ under autocast", hint, type(self.codec.part).encode)

    def _inputs(self) -> list[Tensor]:
        """Pixels (B, 3, F, H, W) of several shapes."""
        codec = self.codec.part
        s = codec.spatial_factor
        side = -(-self.size // s) * s
        found = [smooth(2, 1, side, side), smooth(1, 1, side, side + s)]
        if codec.frame_factor > 1:
            found.append(smooth(1, 1 + codec.frame_factor, side, side))
        return found


def _near(rough: Tensor, exact: Tensor) -> bool:
    return bool((rough - exact).abs().mean() <= 0.1 * exact.abs().mean() + 1e-3)
