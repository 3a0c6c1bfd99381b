"""Images and scores while training come from the averaged weights, not from those being trained."""

import pytest
import torch

import t2x_core.training.callbacks.sampling as sampling
from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.checkpoint import materialize, open_checkpoint
from t2x_core.training.fit import fit
from tests.conftest import TINY

SETTINGS = ("optimizer.lr=0.01", "ema.decay=0.9", "logging.sample_every=3", "trainer.max_steps=4")
NAMES = ("backbone.head.linear.weight", "text_encoders.bytes.position")


@pytest.fixture
def seen(monkeypatch):
    """Step → the weights that samples were made with."""
    weights = []
    sample = sampling.sample

    def spy(module, *arguments):
        weights.append({name: p.detach().clone() for name, p in module.named_parameters() if name in NAMES})
        return sample(module, *arguments)

    monkeypatch.setattr(sampling, "sample", spy)
    return weights


def test_images_while_training_and_at_its_end_come_from_the_average(tmp_path, seen):
    assembly = load_assembly("quickstart", [*TINY, *SETTINGS])
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), tmp_path)
    assert len(seen) == 2  # after step 3, and at the end
    saved = open_checkpoint(tmp_path, "last")[1]
    average = materialize(saved["ema"]["weights"])
    for name in NAMES:
        trained = dict(module.named_parameters())[name]
        assert torch.equal(seen[1][name], average[name]), name
        assert not torch.equal(average[name], trained)
        assert not torch.equal(seen[0][name], seen[1][name])
    # The images of step 3 are of the average then: the last one follows from it and the last weights.
    decay = min(0.9, 4 / 13)
    for name in NAMES:
        trained = dict(module.named_parameters())[name]
        torch.testing.assert_close(decay * seen[0][name] + (1 - decay) * trained, average[name])
