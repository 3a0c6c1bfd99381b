"""Codecs and frozen text encoders: outside of the checkpoints, and named in them by place and content."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from t2x_core.assembly import build_module
from t2x_core.errors import UserError
from t2x_core.frozen import Frozen, check_records


def part(value: float, origin: str = "") -> Frozen[nn.Module]:
    linear = nn.Linear(2, 1)
    nn.init.constant_(linear.weight, value)
    nn.init.zeros_(linear.bias)
    linear.origin = origin
    return Frozen(linear)


def test_a_record_is_the_origin_and_a_hash_of_each_tensor():
    found = part(1.0, "vae.safetensors").record()
    digest = hashlib.sha256()
    digest.update(b"bias torch.float32 (1,)\0" + bytes(4))
    digest.update(b"weight torch.float32 (1, 2)\0" + torch.ones(2).numpy().tobytes())
    assert found == {"origin": "vae.safetensors", "sha256": digest.hexdigest()}
    assert Frozen(nn.Identity()).record() == {"origin": "", "sha256": ""}


def test_the_same_weights_from_another_place_are_the_same():
    check_records({"codec": part(1.0, "here").record()}, {"codec": part(1.0, "there").record()}, "step_00000002")


def test_other_weights_are_refused_with_both_places_and_hashes():
    saved, own = part(1.0, "old.safetensors").record(), part(2.0, "new.safetensors")
    with pytest.raises(UserError) as caught:
        check_records({"codec": saved}, {"codec": own.record()}, "step_00000002")
    text = str(caught.value)
    assert text.startswith("step_00000002: the weights of codec from new.safetensors are not those")
    new, old = own.record()["sha256"][:12], saved["sha256"][:12]
    assert f"trained with from old.safetensors (sha256 {new}, not {old})" in text


def test_weights_where_there_were_none_are_refused():
    with pytest.raises(UserError, match=r"not of nothing\)"):
        check_records({"codec": Frozen(nn.Identity()).record()}, {"codec": part(1.0).record()}, "x")


def test_a_part_that_is_not_here_or_was_not_there_is_named():
    records = {"codec": part(1.0).record(), "text_encoders.t5": part(2.0, "t5-base").record()}
    with pytest.raises(UserError, match=r"a frozen text_encoders\.t5 from t5-base, which is not here"):
        check_records(records, {"codec": part(1.0).record()}, "x")
    with pytest.raises(UserError, match=r"was not trained with a frozen text_encoders\.clip"):
        check_records(
            {"codec": part(1.0).record()}, {"codec": part(1.0).record(), "text_encoders.clip": part(1.0).record()}, "x"
        )


@pytest.mark.parametrize("found", [None, [], "x", {"codec": None}, {"codec": {}}, {"codec": {"origin": 1}}])
def test_what_is_no_record_is_one_line(tiny, found):
    module = build_module(tiny)
    checkpoint = {"state_dict": module.stored(), "referenced": found}
    with pytest.raises(UserError, match="does not say which codec and frozen text encoders"):
        module.on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match="does not say which codec and frozen text encoders"):
        module.on_load_checkpoint({"state_dict": module.stored()})
    checkpoint = {"state_dict": module.stored()}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
