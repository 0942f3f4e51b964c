"""The page: fields on the left, the dance on the right. Everything it shows comes from this server."""

import os
import shutil
from pathlib import Path

import gradio as gr
from gradio_client.utils import is_http_url_like

from champ_jax.app.jobs import MAX_STEPS, Cancelled, Jobs, Order
from champ_jax.errors import UserError

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DOWNLOADS = ("Save dance", "Save skeleton", "Save motion")
KEEP_SECONDS, SWEEP_SECONDS = 2 * 3600, 600
# Fonts that machines have: others would be fetched from far away.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.gradio-container { max-width: min(1180px, 100vw) !important; margin: 0 auto !important }
.contain, .contain > .column { min-width: 0 !important }
#title h1 { margin-bottom: .1em }
#title p { overflow-wrap: anywhere }
#status { min-height: 7.5em }
#status .wrap:not(.hide) { inset: 0; background: var(--block-background-fill); opacity: 1 }
#status .wrap:has(.error) { display: none }
#status p { margin: 0 0 .3em }
"""


def build_page(jobs: Jobs, name: str) -> gr.Blocks:
    """The page of a model called `name`, whose dances `jobs` makes. `jobs.pipe.settings` are its defaults."""
    own, limits = jobs.pipe.settings, jobs.limits
    with gr.Blocks(title="champ-jax", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEEP_SECONDS)) as page:
        size = f"{own.size[1]} x {own.size[0]} pixels at {own.fps:g} frames a second"
        gr.Markdown(f"# A photo and a song: a dance\nModel {name}, {size}. Files of at most {limits.upload_mb:g} MB.", elem_id="title")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                fields = _fields(jobs)
            with gr.Column(scale=3, min_width=300):
                with gr.Row():
                    start = gr.Button("Dance", variant="primary", min_width=100)
                    stop = gr.Button("Cancel", min_width=100)
                status = gr.Markdown("Give a photo and a song, then press Dance.", elem_id="status", container=True)
                with gr.Row():
                    video = gr.Video(label="Dance", interactive=False, buttons=[], min_width=200, elem_id="video")
                    skeleton = gr.Video(label="Skeleton", interactive=False, buttons=[], min_width=200, elem_id="skeleton")
                with gr.Row():
                    downloads = [gr.DownloadButton(label, size="sm", min_width=80, interactive=False) for label in DOWNLOADS]
        _connect(jobs, page, start, stop, fields, [status, video, skeleton, *downloads])
    return page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)


def _fields(jobs: Jobs) -> list[gr.components.Component]:
    """The fields of an Order, in its order, with the model's own values."""
    own, limits = jobs.pipe.settings, jobs.limits
    photo = gr.Image(
        label="Photo", type="filepath", image_mode=None, sources=["upload"], buttons=["fullscreen"], height=280, elem_id="photo"
    )
    song = gr.Audio(label="Song: wav, flac, ogg or mp3", type="filepath", sources=["upload"], buttons=[], editable=False, elem_id="song")
    pose = gr.File(label="Pose in the photo, JSON (else: standing)", file_types=[".json"], height=120, elem_id="pose")
    uploads = [photo, song, pose]
    for field in uploads:
        _take_uploads_only(field)
    example = _example(jobs.folder.with_name("example"))
    if example:
        gr.Button("Fill in the demo's photo and song", size="sm").click(
            lambda: example, None, uploads, queue=False, show_progress="hidden", api_visibility="private"
        )
    seconds = gr.Slider(
        min(1, limits.seconds), limits.seconds, min(8, limits.seconds), step=0.5, label="Length in seconds",
        info="The dance ends with the song at the latest.", elem_id="seconds",
    )  # fmt: skip
    with gr.Row():
        seed = gr.Number(0, label="Seed", minimum=0, precision=0, min_width=80)
        steps = gr.Number(own.steps, label="Steps", minimum=1, maximum=MAX_STEPS, precision=0, min_width=80)
        scale = gr.Number(own.guidance_scale, label="Guidance", minimum=1, step=0.5, min_width=80)
    return [*uploads, seconds, seed, steps, scale]


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


def _connect(jobs: Jobs, page: gr.Blocks, start: gr.Button, stop: gr.Button, inputs: list, outputs: list) -> None:
    """What the buttons and a closed page do."""

    def dance(photo, song, pose, seconds, seed, steps, scale, request: gr.Request, progress=gr.Progress()):  # noqa: B008 - Gradio's way
        def say(text: str, done: int, total: int) -> None:
            progress((done, total) if total else 0.0, desc=text, unit="windows")

        try:
            made = jobs.dance(request.session_hash, Order(photo, song, pose, seconds, seed, steps, scale), say)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False, duration=None) from error
        except Cancelled:
            return ["Cancelled.", *[gr.skip()] * (len(outputs) - 1)]
        files = [os.fspath(file) for file in (made.video, made.skeleton, made.motion)]
        return [made.text, *files[:2], *[gr.DownloadButton(value=file, interactive=True) for file in files]]

    def cancel(request: gr.Request) -> str:
        jobs.cancel(request.session_hash)
        return "Cancelled."

    def leave(request: gr.Request) -> None:
        jobs.cancel(request.session_hash)

    private = {"api_visibility": "private"}
    status = outputs[0]
    running = start.click(dance, inputs, outputs, concurrency_limit=1, show_progress_on=status, **private)
    # Gradio takes a job that waits out of the queue, and stops looking at one that runs; to stop that is ours.
    stop.click(cancel, None, status, queue=False, cancels=running, show_progress="hidden", **private)
    page.unload(leave)


def _example(folder: Path) -> list[str]:
    """Photo, song and pose of the repository, copied to `folder`, from which Gradio may take them; none if they are not there."""
    files = [ASSETS / "photo.png", ASSETS / "songs/disco_2.ogg", ASSETS / "photo.json"]
    if not all(file.is_file() for file in files):
        return []
    folder.mkdir()
    return [os.fspath(shutil.copy(file, folder)) for file in files]
