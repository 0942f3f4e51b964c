"""The page: fields on the left, the dance on the right. Everything it shows comes from this server."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like

from champ_jax.app.jobs import MAX_STEPS, Cancelled, Jobs, Order
from champ_jax.errors import UserError

ASSETS = Path(__file__).resolve().parents[2] / "assets"
KEEP_SECONDS, SWEEP_SECONDS = 2 * 3600, 600
# Fonts that machines have: others would be fetched from far away.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important }
#title h1 { margin-bottom: .1em }
#status { min-height: 4.5em }
#status p { margin: 0 0 .3em }
#title p { overflow-wrap: anywhere }
"""


def build_page(jobs: Jobs, name: str) -> gr.Blocks:
    """The page of a model called `name`, whose dances `jobs` makes. `jobs.pipe.settings` are its defaults."""
    own, limits = jobs.pipe.settings, jobs.limits
    with gr.Blocks(title="champ-jax", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEEP_SECONDS)) as page:
        gr.Markdown(f"# A photo and a song: a dance\n{name}, {own.size[1]} x {own.size[0]} pixels at {own.fps:g} frames a second.",
                    elem_id="title")  # fmt: skip
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                fields = _fields(own, limits)
                with gr.Row():
                    start = gr.Button("Dance", variant="primary")
                    stop = gr.Button("Cancel")
            with gr.Column(scale=3, min_width=300):
                status = gr.Markdown("Give a photo and a song, then press Dance.", elem_id="status", container=True)
                with gr.Row():
                    video = gr.Video(label="Dance", interactive=False, buttons=["download"], min_width=200, elem_id="video")
                    skeleton = gr.Video(label="Skeleton", interactive=False, buttons=["download"], min_width=200, elem_id="skeleton")
                files = gr.Files(label="Download", interactive=False, elem_id="files", visible=False)
        outputs = [status, video, skeleton, files]
        _connect(jobs, page, SimpleNamespace(start=start, stop=stop, status=status), list(vars(fields).values()), outputs)
        example = _example(limits.upload_mb)
        if example:
            gr.Examples([example], [fields.photo, fields.song, fields.pose], cache_examples=False, label="Example")
    return page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)


def _fields(own: Any, limits: Any) -> SimpleNamespace:
    """The fields of an Order, by their names there and in that order; `own`: the model's settings."""
    most = f"at most {limits.upload_mb:g} MB"
    fields = SimpleNamespace(
        photo=gr.Image(label=f"Photo ({most})", type="filepath", image_mode=None, sources=["upload"], height=260, elem_id="photo"),
        song=gr.Audio(label=f"Song: wav, flac, ogg or mp3 ({most})", type="filepath", sources=["upload"], editable=False, elem_id="song"),
        pose=gr.File(
            label="Pose of the person in the photo: JSON; without it a standing person is assumed", file_types=[".json"], height=110,
            elem_id="pose",
        ),
        seconds=gr.Slider(
            min(1, limits.seconds), limits.seconds, min(8, limits.seconds), step=0.5, label="Length in seconds",
            info="The dance ends with the song at the latest.", elem_id="seconds",
        ),
        seed=gr.Number(0, label="Seed", minimum=0, precision=0, min_width=90, elem_id="seed"),
        steps=gr.Number(own.steps, label="Steps", minimum=1, maximum=MAX_STEPS, precision=0, min_width=90, elem_id="steps"),
        guidance_scale=gr.Number(own.guidance_scale, label="Guidance scale", minimum=1, step=0.5, min_width=90, elem_id="scale"),
    )  # fmt: skip
    for field in (fields.photo, fields.song, fields.pose):
        _take_uploads_only(field)
    return fields


def _take_uploads_only(field: gr.components.Component) -> None:
    """The field gives the path of the uploaded file as it is: it is `Pipeline.dance` that reads it, within its own limits.

    Gradio would also fetch an address, or unpack a picture of any size, that a program sends in place of a file.
    """
    move = field.async_move_resource_to_block_cache

    async def move_file(path):
        if is_http_url_like(str(path)):
            raise gr.Error("send the file itself, not an address", print_exception=False)
        return await move(path)

    field.async_move_resource_to_block_cache = move_file
    field.preprocess = lambda payload: payload and payload.path


def _connect(jobs: Jobs, page: gr.Blocks, on: SimpleNamespace, inputs: list, outputs: list) -> None:
    """What the buttons and a closed page do."""

    def dance(*values, request: gr.Request, progress=gr.Progress()):  # noqa: B008 - how Gradio is told to pass one
        def say(text: str, done: int, total: int) -> None:
            progress((done, total) if total else None, desc=text, unit="windows")

        try:
            made = jobs.dance(request.session_hash, Order(*values), say)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False, duration=None) from error
        except Cancelled:
            return "Cancelled.", gr.skip(), gr.skip(), gr.skip()
        paths = [os.fspath(path) for path in made.files]
        return made.text.replace("\n", "\n\n"), os.fspath(made.video), os.fspath(made.skeleton), gr.Files(paths, visible=True)

    def cancel(request: gr.Request) -> str:
        jobs.cancel(request.session_hash)
        return "Cancelled."

    def leave(request: gr.Request) -> None:
        jobs.cancel(request.session_hash)

    private = {"api_visibility": "private"}
    running = on.start.click(dance, inputs, outputs, concurrency_limit=1, show_progress_on=on.status, **private)
    on.stop.click(cancel, None, on.status, queue=False, cancels=running, show_progress="hidden", **private)
    page.unload(leave)


def _example(upload_mb: float) -> list[str] | None:
    """Photo, song and pose of the repository, if they are there."""
    files = [ASSETS / "photo.png", ASSETS / "songs/disco_2.ogg", ASSETS / "photo.json"]
    return [os.fspath(file) for file in files] if all(file.is_file() for file in files) else None
