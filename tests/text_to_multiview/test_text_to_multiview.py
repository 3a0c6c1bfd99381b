"""The plugin: turntables, conditioning, what can be asked for, score, render, and a whole tiny run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from t2x_core.assembly import build_module, load_assembly
from t2x_core.backbone import PRESETS, PTDiT, PTDiTConfig
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.interfaces import DataContext, ModelContext
from t2x_core.rendering import to_uint8
from t2x_core.runs import find_run
from t2x_core.training.precision import precision_plugin
from t2x_core.types import (
    Batch,
    Conditioning,
    ConditioningDims,
    FrameAxis,
    LatentShape,
    SampleKey,
    TextDims,
    TextTokens,
)
from t2x_plugins.shapes.solids import check, parse
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.conditioning import ViewConditioning, camera_features
from t2x_plugins.text_to_multiview.data import Turntables, TurntablesData
from t2x_plugins.text_to_multiview.multiview_config import (
    SamplingConfig,
    TextToMultiviewConfig,
    TurntablesConfig,
    ViewConditioningConfig,
    ViewsConfig,
)
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig
from t2x_plugins.text_to_multiview.plugin import TextToMultiview
from tests.conftest import TINY_MODEL

NAME = "text-to-multiview"
QUICK = "text_to_multiview/quickstart"
TINY = (f"tasks.{NAME}.data.turntables.val_count=4", f"tasks.{NAME}.data.turntables.views=3", *TINY_MODEL)


def key(i, step=0):
    return SampleKey(NAME, 0, i, step, i)


@pytest.fixture
def config():
    return TurntablesConfig(size=24, two_solids=0.5, val_count=40)


@pytest.fixture
def data(config):
    return TurntablesData(config, DataContext(seed=0, pixel_multiple=4))


CONTEXT = ModelContext({"x": TextDims(8)}, 3)


def condition(adapter, batch, size=8):
    """The conditioning of a batch, for latents of `size` × `size`."""
    count, views = len(batch), batch.extra["cameras"].shape[1]
    mask = torch.tensor([[True, True, False]]).expand(count, -1)
    return adapter(batch, {"x": TextTokens(torch.ones(count, 3, 8), mask)}, LatentShape(3, views, size, size))


def task_of(config):
    task = TextToMultiview(config)
    task.name = NAME
    return task


def batch_of(cameras, count=2):
    extra = {name: part.expand(count, *part.shape) for name, part in cameras.extra().items()}
    return Batch(NAME, ("a red cone",) * count, extra=extra)


def test_a_sample_follows_from_its_key_and_a_scene_is_seen_from_many_sides(data):
    source = data.train_source()
    one, same, later = source[key(7)], source[key(7)], source[key(7, step=1)]
    assert torch.equal(one.pixels, same.pixels)
    assert one.caption == same.caption
    assert one.pixels.shape == (3, 6, 24, 24)
    assert one.pixels.min() == -1
    assert one.pixels.max() <= 1
    assert not torch.equal(one.extra["cameras"], later.extra["cameras"])
    assert len({source[key(7, step=step)].caption for step in range(10)}) > 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_captions_and_cameras_say_what_the_views_show(data, split):
    source = getattr(data, f"{split}_source")()
    batch = source.collate([source[key(i)] for i in range(20)])
    for i, views in enumerate(to_uint8(batch.pixels).numpy()):
        cameras = batch.extra["cameras"][i].numpy()
        assert check(views, parse(batch.captions[i]), cameras, 40.0)["all"], batch.captions[i]
    source = Turntables(TurntablesConfig())
    assert source.score(batch.pixels, batch)["all"].mean() == 1
    turned = replace(batch, extra={**batch.extra, "cameras": batch.extra["cameras"].roll(2, 1)})
    assert source.score(batch.pixels, turned)["all"].mean() < 0.4


def test_turntables_are_drawn_from_their_ranges():
    config = TurntablesConfig(azimuth=(0, 0), elevation=(20, 30), distance=(3, 4), views=4)
    source = TurntablesData(config, DataContext(seed=0, pixel_multiple=4)).train_source()
    cameras = Cameras.from_extra(source.collate([source[key(i)] for i in range(30)]).extra)
    azimuth, elevation, distance = cameras.angles()
    torch.testing.assert_close(azimuth % 360, torch.tensor([0.0, 90, 180, 270]).expand(30, -1), atol=1e-3, rtol=0)
    assert 20 <= elevation.min() < 22 < 28 < elevation.max() <= 30.001
    assert 2.999 <= distance.min() < 3.2 < 3.8 < distance.max() <= 4.001


def test_the_conditions_to_watch_are_held_out_and_always_the_same(data):
    some, more = data.val_conditions(10), data.val_conditions(20)
    assert some.captions == more.captions[:10]
    assert torch.equal(some.extra["cameras"], more.extra["cameras"][:10])
    assert {bool(parse(caption).relation) for caption in more.captions} == {True, False}


def test_ranges_that_go_down_are_told():
    with pytest.raises(UserError, match="40 is more than 10"):
        TurntablesConfig(elevation=(40, 10))


def test_a_camera_is_named_by_its_features():
    """Opposite azimuths differ, a whole turn does not, and each angle matters."""
    one = Cameras.turntable(5, 10.0, 20.0, 3.0, 40.0)
    features = camera_features(one)
    assert torch.pdist(features).min() > 0.5
    torch.testing.assert_close(camera_features(Cameras.turntable(5, 370.0, 20.0, 3.0, 40.0)), features)
    for other in ((10.0, 30.0, 3.0, 40.0), (10.0, 20.0, 4.0, 40.0), (10.0, 20.0, 3.0, 50.0)):
        assert (camera_features(Cameras.turntable(5, *other)) - features).abs().max() > 0.1
    rolled, aside = one.poses.clone(), one.poses.clone()
    rolled[..., :3, :2] = one.poses[..., :3, [1, 0]] * torch.tensor([-1, 1])
    aside[..., :3, :3] @= torch.matrix_exp(0.2 * torch.tensor([[0, 0, 1], [0, 0, 0], [-1, 0, 0]]).double())
    for poses in (rolled, aside):
        assert (camera_features(replace(one, poses=poses)) - features).abs().max() > 0.1
    for i in range(4):
        lens = one.intrinsics + 0.2 * torch.eye(4)[i]
        assert (camera_features(replace(one, intrinsics=lens)) - features).abs().max() > 0.1


@pytest.mark.parametrize("camera", ["embedding", "pluecker"])
def test_the_conditioning_tells_cameras_and_the_null_one_keeps_them(camera):
    views = ViewsConfig(window=2, circular=False)
    adapter = ViewConditioning(CONTEXT, ViewConditioningConfig(camera=camera), views)
    conditioning = condition(adapter, batch_of(Cameras.turntable(6, 0.0, 20.0, 3.0)))
    null = adapter.null(conditioning)
    assert conditioning.frame_axis == null.frame_axis == FrameAxis(window=2, circular=False, frame_positions=False)
    part = "frames" if camera == "embedding" else "concat"
    other = "concat" if camera == "embedding" else "frames"
    assert getattr(conditioning, other) is None
    assert torch.equal(getattr(null, part), getattr(conditioning, part))
    assert not torch.equal(null.text, conditioning.text)
    shape = (2, 6, adapter.dims.frames) if camera == "embedding" else (2, 6, 6, 8, 8)
    assert getattr(conditioning, part).shape == shape
    assert conditioning.where(torch.tensor([True, False]), null).frame_axis == conditioning.frame_axis


@pytest.mark.parametrize("camera", ["embedding", "pluecker"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_step_in_bfloat16_sees_cameras_in_float32(camera, precision):
    """The real training step, and what the adapter makes of the cameras in it: rays, or what enters the embedding."""
    module = build_module(load_assembly(QUICK, [*TINY, f"tasks.{NAME}.conditioning.camera={camera}"]))
    views = TurntablesConfig(size=24, views=3)
    source = TurntablesData(views, DataContext(seed=0, pixel_multiple=4)).train_source()
    batch, adapter, seen = source.collate([source[key(i)] for i in range(2)]), module.adapters[NAME], []
    if adapter.embed is None:
        adapter.register_forward_hook(lambda _, __, conditioning: seen.append(conditioning.concat))
    else:
        adapter.embed.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    precision_plugin(precision, "cpu").convert_module(module)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        module.training_step(batch, 0)["loss"].backward()
    exact = Cameras(batch.extra["cameras"].double(), batch.extra["intrinsics"].double())
    wanted = exact.pluecker(24) if camera == "pluecker" else camera_features(exact)
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0].double(), wanted, atol=1e-5, rtol=0)
    assert all(p.grad.isfinite().all() for _, p in module.trainable() if p.grad is not None)
    assert {p.dtype for p in adapter.parameters()} == {torch.bfloat16 if precision == "bf16-true" else torch.float32}


def test_all_views_make_a_window_where_nothing_else_is_said():
    adapter = ViewConditioning(CONTEXT, ViewConditioningConfig(), ViewsConfig())
    for views in (4, 9):
        told = condition(adapter, batch_of(Cameras.turntable(views, 0.0, 20.0, 3.0)))
        assert told.frame_axis == FrameAxis(window=views, circular=True, frame_positions=False)


def test_rays_have_the_shape_of_the_latents():
    """No codec, no size is known to the adapter but that of the latents; the backbone refuses any other."""
    cameras = Cameras.turntable(3, 0.0, 20.0, 3.0)
    adapter = ViewConditioning(CONTEXT, ViewConditioningConfig(), ViewsConfig())
    found = condition(adapter, batch_of(cameras, 1), size=12).concat
    torch.testing.assert_close(found[0], cameras.pluecker(12).float())
    backbone = PTDiT(PTDiTConfig(3, 32, 2, 2, patch_size=4, dims=ConditioningDims(concat=6)))
    assert backbone(torch.randn(1, 3, 3, 12, 12), torch.ones(1), Conditioning(concat=found)).shape == (1, 3, 3, 12, 12)
    with pytest.raises(ValueError, match=r"concat is \(3, 12, 12\) .* the latents are \(3, 8, 8\)"):
        backbone(torch.randn(1, 3, 3, 8, 8), torch.ones(1), Conditioning(concat=found))


def test_neighbours_around_the_circle_are_alike_to_the_network():
    """Views that are given one further come out one further: the network knows cameras, and no numbers of views."""
    torch.manual_seed(0)
    module = build_module(load_assembly(QUICK, [*TINY, f"tasks.{NAME}.views.window=2", "backbone.window=[2,2,2]"]))
    with torch.no_grad():
        for p in module.backbone.parameters():
            p.add_(0.05 * torch.randn_like(p))
    cameras = Cameras.turntable(4, 0.0, 20.0, 3.3)
    latents, t = torch.randn(1, 3, 4, 24, 24), torch.tensor([0.7])
    one, two = (batch_of(Cameras(cameras.poses.roll(k, 0), cameras.intrinsics), 1) for k in (0, 2))
    with torch.no_grad():
        shape = LatentShape(*latents.shape[1:])
        out = module.velocity(latents, t, module.conditionings(one, shape)[0])
        turned = module.velocity(latents.roll(2, 2), t, module.conditionings(two, shape)[0])
    torch.testing.assert_close(turned, out.roll(2, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["proxy", pytest.param("fused", marks=pytest.mark.slow)])
def test_24_views_of_512_pixels_fit_the_network(attention):
    """Latents of 64 × 64 (a codec of factor 8): the network XL, windows of the paper, tensors without content."""
    dims = ConditioningDims(frames=128)
    config = PTDiTConfig(4, **PRESETS["XL"], attention=attention, window=(4, 4, 4), dims=dims)
    told = Conditioning(
        frames=torch.zeros(1, 24, 128), frame_axis=FrameAxis(window=4, circular=True, frame_positions=False)
    )
    with torch.device("meta"):
        backbone = PTDiT(config)
    backbone.prepare(torch.empty(1, 4, 24, 64, 64), told.frame_axis)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        out = backbone.to_empty(device="cpu")(torch.empty(1, 4, 24, 64, 64), torch.ones(1), told)
    assert out.shape == (1, 4, 24, 64, 64)


def test_a_step_on_24_views_of_64_by_64():
    torch.manual_seed(0)
    dims = ConditioningDims(frames=128)
    backbone = PTDiT(PTDiTConfig(4, 32, 2, 2, attention="fused", window=(4, 4, 4), dims=dims))
    told = Conditioning(
        frames=torch.randn(1, 24, 128), frame_axis=FrameAxis(window=4, circular=True, frame_positions=False)
    )
    out = backbone(torch.randn(1, 4, 24, 64, 64), torch.tensor([0.5]), told)
    (out - torch.randn_like(out)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_what_is_asked_for_is_what_is_sampled():
    data = {"turntables": TurntablesConfig(size=24, elevation=(10, 30))}
    plain = TextToMultiviewConfig(data=data)
    assert (task_of(plain).bucket().frames, task_of(plain).bucket().height) == (6, 24)
    asked = replace(plain, sampling=SamplingConfig(views=12, azimuth=90, elevation=50, distance=5, fov=30, size=48))
    bucket = task_of(asked).bucket()
    assert (bucket.frames, bucket.height, bucket.width) == (12, 48, 48)
    for config, wanted in ((plain, (0, 20, 3.3, 40)), (asked, (0, 50, 5, 30))):
        conditions = task_of(config).conditions(["a red cone", "a blue box"])
        cameras = Cameras.from_extra(conditions.extra)
        assert cameras.poses.shape[:2] == (2, task_of(config).bucket().frames)
        found = [*(part[1, 0].item() for part in cameras.angles()), cameras.fov[1, 0].item()]
        assert np.allclose(found, wanted, atol=1e-3)
    own = {"objects": ObjectsConfig(folder="x", size=64, views=(4, 8))}
    assert task_of(TextToMultiviewConfig(data=own)).bucket().frames == 8
    conditions = task_of(TextToMultiviewConfig(data=own)).conditions(["a shoe"])
    torch.testing.assert_close(Cameras.from_extra(conditions.extra).fov, torch.full((1, 8), 40.0))


def test_render_turns_and_shows_all_views_at_once(data):
    source = data.val_source()
    batch = source.collate([source[key(i)] for i in range(3)])
    task = task_of(TextToMultiviewConfig(data={"turntables": TurntablesConfig()}))
    rendered = task.render(batch.pixels, batch)
    assert rendered.frames.shape[0] == 6
    assert rendered.still.shape[1] > 6 * 64
    assert rendered.still.shape[0] > 3 * 64
    assert len(task.render(batch.pixels[:, :, :1], batch).frames) == 1


@pytest.mark.parametrize("camera", ["embedding", "pluecker"])
def test_a_tiny_run_trains_and_is_sampled_from_other_cameras(camera, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", QUICK, *TINY, f"tasks.{NAME}.conditioning.camera={camera}"]) == 0
    run = find_run("text_to_multiview/quickstart")
    assert {file.suffix for file in (run / "samples").iterdir()} == {".png", ".gif", ".mp4"}
    assert main(["sample", str(run), "a red cone", "--set", "views=5", "--set", "elevation=35", "--out", "x.gif"]) == 0
    assert Image.open("x.gif").n_frames == 5
    capsys.readouterr()
    assert main(["sample", str(run), "a red cone", "--set", "elevation=95", "--out", "x.gif"]) == 2
    assert "elevation must be at most 89" in capsys.readouterr().err
    pipeline = T2XPipeline.from_pretrained(run, device="cpu")
    samples = pipeline("a red cone", sampling={"views": 4, "azimuth": 45.0})
    assert samples.pixels.shape == (1, 3, 4, 24, 24)
