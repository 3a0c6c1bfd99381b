"""A codec with a convolution that compresses time: 17 frames become 5, in training and in sampling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from t2x_core.assembly import build_module, load_assembly
from t2x_core.backbone import PTDiT
from t2x_core.data import MadeData
from t2x_core.errors import UserError
from t2x_core.frozen import Codec
from t2x_core.interfaces import LatentCodec
from t2x_core.sampling import sample
from t2x_core.types import Batch, Bucket, SampleKey
from tests.conftest import TINY_MOVING

NAME = "text-to-video"


class ConvCodec(LatentCodec):
    """Causal: the first frame by itself, then four by four; halves height and width."""

    channels, spatial_factor, frame_factor = 4, 2, 4

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(3, 4, (4, 2, 2), stride=(4, 2, 2))
        self.up = nn.ConvTranspose3d(4, 3, (4, 2, 2), stride=(4, 2, 2))
        self.dropout = nn.Dropout(0.5)

    def encode(self, pixels):
        first = pixels[:, :, :1].expand(-1, -1, 3, -1, -1)
        return self.dropout(self.down(torch.cat((first, pixels), 2)))

    def decode(self, latents):
        return self.up(latents)[:, :, 3:]


@pytest.fixture
def module():
    assembly = load_assembly("text_to_video/quickstart", [*TINY_MOVING, "backbone.patch_size=2"])
    made = build_module(assembly)
    config = replace(made.backbone.config, in_channels=4, out_channels=4)
    made.backbone, made.codec = PTDiT(config), Codec(ConvCodec())
    return made


def batch(frames: int) -> Batch:
    data = MadeData(lambda split, i: (torch.full((3, frames, 16, 16), 0.1 * i), "a", {"fps": torch.tensor(8.0)}))
    source = data.train_source()
    return source.collate([source[SampleKey(NAME, 0, i, 0, i)] for i in range(2)])


@pytest.mark.parametrize("autocast", [False, True])
def test_17_frames_are_5_of_the_latents_in_float32(module, autocast):
    module.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        encoded = module.encode(batch(17))
        out = module.training_step(batch(17), 0)
        draws = module.draw(encoded.keys, encoded.latents)
    assert encoded.latents.shape == (2, 4, 5, 8, 8)
    assert encoded.pixels is None
    assert encoded.shape == (17, 16, 16)
    with torch.no_grad():
        assert torch.equal(encoded.latents, module.codec.part.encode(batch(17).pixels))  # no dropout, no bfloat16
    assert {encoded.latents.dtype, draws.t.dtype, draws.noise.dtype} == {torch.float32}
    out["loss"].backward()
    assert not module.codec.part.training
    assert all(p.grad is None for p in module.codec.part.parameters())
    assert not any(name.startswith("codec") for name in module.stored())


def test_sampling_gives_17_frames_back(module):
    conditions = Batch(NAME, ("a", "b"), extra={"fps": torch.full((2,), 8.0)})
    settings = load_assembly("text_to_video/quickstart", TINY_MOVING).recipe.diffusion.sampler
    assert sample(module, conditions, [0, 1], Bucket(17, 16, 16), settings).shape == (2, 3, 17, 16, 16)


def test_frames_that_do_not_fit_are_told(module):
    with pytest.raises(UserError, match=r"16 frames do not fit the codec.*13 and 17 do"):
        module.latent_shape(Bucket(16, 16, 16), NAME)
