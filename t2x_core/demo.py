"""A local page to try a model on: prompt, seed, what the task takes besides, and what was made so far (gradio)."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from t2x_core.diffusion import Callback
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.recipe import TaskConfig, Written, field_docs
from t2x_core.rendering import save

LORA_WEIGHTS = -2.0, 2.0
"""From and to, of the sliders."""
MOST_SAMPLES, MOST_STEPS, LARGEST_SEED = 16, 100, 2**31 - 1
SMALL = 256
"""Pixels of a side below which samples are shown with sharp pixels."""
STYLE = """
.small img {image-rendering: pixelated}
.shown img {width: 100%; height: 100%; object-fit: contain}
footer {display: none !important}
"""
Note = Callable[[dict[str, Any]], str]
"""How samples were made → a text for the metadata of their file."""
Made = tuple[str, str, list[tuple[str, str]], list[dict[str, Any]]]
"""Image, line on it, gallery, history."""


def library() -> Any:
    """gradio, without its telemetry.

    Raises:
        UserError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported, and later
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs gradio", hint="pip install 't2x[demo]'") from error
    return gradio


def serve(
    pipeline: T2XPipeline,
    name: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    note: Note = lambda made: "",
    wait: bool = True,
) -> Any:
    """Opens the page on this machine alone, unless `host` says otherwise; returns gradio's page.

    Args:
        name: of the model, above the page.
        port: None: the first free one from 7860 on.
        note: what files say of how they were made.
        wait: until the page is closed (Ctrl-C).

    Raises:
        UserError: the port is taken, or there is no such host.
    """
    gr = library()
    page = build_page(pipeline, name, note)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # none fetched
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            theme=theme,
            css=STYLE,
        )
    except OSError as error:
        hint = "choose another --port" if port else "choose a --port, or another --host"
        raise UserError(f"the page cannot be opened on {host}:{port or 7860}", hint=hint) from error
    print(f"{name} → {url}   (Ctrl-C closes it)", flush=True)
    if wait:
        page.block_thread()
    return page


def build_page(pipeline: T2XPipeline, name: str, note: Note = lambda made: "") -> Any:
    """The page (gradio.Blocks), with a tab for each task."""
    gr = library()
    tasks = list(pipeline.assembly.recipe.tasks)
    config, size = pipeline.module.backbone.config, sum(p.numel() for p in pipeline.module.backbone.parameters())
    about = f"{' · '.join(tasks)} · PT-DiT, {config.attention} attention, {size / 1e6:.3g} M parameters"
    with gr.Blocks(title=f"{name} · t2x", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown(f"## {name}\n{about}")
        if len(tasks) == 1:
            _task(gr, pipeline, tasks[0], "sample", note)
        else:
            with gr.Tabs():
                for task in tasks:
                    with gr.Tab(task):
                        _task(gr, pipeline, task, f"sample_{task.replace('-', '_')}", note)
    return page


def _task(gr: Any, pipeline: T2XPipeline, task: str, api_name: str, note: Note) -> None:
    config, sampler = pipeline.assembly.recipe.tasks[task], pipeline.assembly.recipe.diffusion.sampler
    pixels = ["small"] if max((max(size) for size in config.sizes().values()), default=SMALL) < SMALL else []
    settings = _settings(config)
    history = gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox(label="Prompt", placeholder="what you want to see", lines=2, autofocus=True)
            negative = gr.Textbox(label="Negative prompt", placeholder="what it must not look like", lines=1)
            images = [
                gr.Image(type="pil", image_mode=None, label=f"{key}: {meaning}")
                for key, meaning in config.inputs().items()
            ]
            button = gr.Button("Sample", variant="primary")
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED, min_width=100)
                fresh = gr.Checkbox(False, label="New seed each time", min_width=100)
            with gr.Row():
                steps = gr.Slider(1, MOST_STEPS, sampler.steps, step=1, label="Steps")
                guidance = gr.Slider(0, 20, sampler.guidance, step=0.1, label="Guidance", info="1 is none")
            count = gr.Slider(1, MOST_SAMPLES, 1, step=1, label="Samples", info="from seeds one after the other")
            values = []
            if settings:
                with gr.Accordion(f"Other settings of {task}", open=False):
                    for key, (value, meaning) in settings.items():
                        values.append(gr.Textbox(value, label=key, info=meaning, placeholder="as in training"))
            loras = [
                gr.Slider(
                    min(LORA_WEIGHTS[0], weight),
                    max(LORA_WEIGHTS[1], weight),
                    weight,
                    step=0.05,
                    label=f"LoRA {Path(lora).name}",
                    info="0 leaves it out",
                )
                for lora, weight in pipeline.loras.weights.items()
            ]
        with gr.Column(scale=3, min_width=320):
            shown = gr.Image(
                label="Sample",
                interactive=False,
                height=480,
                buttons=["download", "fullscreen"],
                elem_classes=["shown", *pixels],
            )
            line = gr.Markdown("Samples made so far appear below.")
            gallery = gr.Gallery(
                label="History",
                show_label=False,
                columns=5,
                height=240,
                fit_columns=False,
                allow_preview=False,
                object_fit="contain",
                interactive=False,
                buttons=[],
                elem_classes=pixels,
            )
            how = gr.JSON(label="How it was made", open=True, visible=False)
            again = gr.Button("Put these settings back", size="sm", visible=False)

    make = _maker(gr, pipeline, task, list(config.inputs()), list(settings), note)
    inputs = [history, prompt, negative, seed, fresh, steps, guidance, count, *images, *values, *loras]
    outputs = [shown, line, gallery, history]
    options = {"api_name": api_name, "concurrency_id": "model", "show_progress_on": [shown]}
    gr.on([button.click, prompt.submit, negative.submit], make, inputs, outputs, **options)

    def chosen(made: list[dict[str, Any]], event: gr.SelectData) -> tuple[Any, ...]:
        entry = made[event.index]
        entry = {**entry, "lora": {Path(lora).name: weight for lora, weight in entry.get("lora", {}).items()}}
        said = {key: value for key, value in entry.items() if key != "file" and value not in ({}, [], "")}
        return entry["file"], gr.update(value=said, visible=True), gr.update(visible=True)

    def put_back(entry: dict[str, Any]) -> list[Any]:
        own = [entry.get("settings", {}).get(key, value) for key, (value, _) in settings.items()]
        words = [entry.get("prompt", ""), entry.get("negative", "")]
        weights = list(entry.get("lora", {}).values())
        return [*words, entry["seed"], False, entry["steps"], entry["guidance"], entry["samples"], *own, *weights]

    chosen.__annotations__["event"] = gr.SelectData
    gallery.select(chosen, [history], [shown, how, again], api_visibility="private")
    again.click(
        put_back,
        [how],
        [prompt, negative, seed, fresh, steps, guidance, count, *values, *loras],
        api_visibility="private",
    )


def _settings(config: TaskConfig) -> dict[str, tuple[str, str]]:
    """Key of the task's block `sampling` → its value as text, and what it means."""
    block = getattr(config, "sampling", None)
    if block is None:
        return {}
    docs, found = field_docs(type(block)), {}
    for field in fields(block):
        value = getattr(block, field.name)
        found[field.name] = "" if value is None else str(value), docs.get(field.name, "")
    return found


def _maker(
    gr: Any, pipeline: T2XPipeline, task: str, images: Sequence[str], settings: Sequence[str], note: Note
) -> Callable[..., Made]:
    """What the button calls."""
    folder = tempfile.TemporaryDirectory(prefix="t2x-demo-")  # gone with the page
    config = pipeline.assembly.recipe.tasks[task]
    defaults = {key: value for key, (value, _) in _settings(config).items()}
    loras = list(pipeline.loras.weights)

    def make(
        progress: Any = gr.Progress(),  # noqa: B008
        *asked: Any,
    ) -> Made:
        return sampled(lambda step, steps, _: progress((step, steps), unit="steps"), *asked)

    def sampled(
        callback: Callback,
        history: list[dict[str, Any]],
        prompt: str,
        negative: str,
        seed: int,
        fresh: bool,
        steps: int,
        guidance: float,
        count: int,
        *others: Any,
    ) -> Made:
        given = dict(zip((*images, *settings, *loras), others, strict=True))
        asked = {key: given[key].strip() for key in settings if (given[key] or "").strip() != defaults[key]}
        inputs = {key: given[key] for key in images if given[key] is not None}
        first, number = random.randrange(LARGEST_SEED) if fresh else int(seed or 0), int(count)
        entry: dict[str, Any] = {
            "prompt": prompt or "",
            "negative": negative or "",
            "seed": first,
            "samples": number,
            "steps": int(steps),
            "guidance": float(guidance),
            "settings": asked,
            "inputs": sorted(inputs),
        }
        if loras:
            entry["lora"] = {key: float(given[key]) for key in loras}
        start = time.monotonic()
        try:
            pipeline.loras.set(entry.get("lora", {}))
            samples = pipeline(
                [prompt or ""] * number if prompt or not config.needs_prompt else None,
                [first + i for i in range(number)],
                task=task,
                negative=negative or None,
                inputs=inputs,
                sampling={key: Written(value or "null") for key, value in asked.items()},
                steps=int(steps),
                guidance=float(guidance),
                callback=callback,
            )
            seconds = time.monotonic() - start
            rendered = pipeline.render(samples)
            ending = ".gif" if len(rendered.frames) > 1 else ".png"
            said = "" if inputs else note({**entry, "task": task})  # an image from the page is in no file
            file = save(rendered, Path(folder.name) / f"{time.time_ns()}{ending}", said)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        entry |= {"file": str(file), "seconds": round(seconds, 2)}
        made = [entry, *history]
        seeds = f"seed {first}" if number == 1 else f"seeds {first} to {first + number - 1}"
        line = f"{seeds} · {int(steps)} steps · guidance {float(guidance):g} · {seconds:.1f} s"
        return str(file), line, [(one["file"], f"seed {one['seed']}") for one in made], made

    return make
