"""The page on a port, for as long as it is needed, with nothing left behind."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from champ_jax.app.jobs import Jobs, Limits
from champ_jax.errors import UserError

# Browsers ask nobody but this server for anything, whatever is on the page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:"
)


class OwnThingsOnly:
    """Middleware: refuses to fetch addresses for visitors, which Gradio can, and tells browsers to ask nobody else."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Answers 404, or passes on; as ASGI has it."""
        path = scope.get("path", "").lower()
        if any(route in path for route in ("/proxy=", "/file=http", "/file/http")):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def check_port(host: str, port: int) -> int:
    """`port`, or any free one for 0; UserError when the page cannot be served there."""
    if not 0 <= port < 65536:
        raise UserError(f"--port is {port}: give 1 to 65535, or 0 for any that is free")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return probe.getsockname()[1]
    except OSError as error:
        raise UserError(f"cannot serve at {host}:{port}: {error.strerror or error}; give another --port or --host") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is served at `host`."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


@contextmanager
def serving(pipe: Any, name: str, limits: Limits, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves the page of `pipe`, a Pipeline called `name`, until the context ends; gives its address.

    Whatever runs then is cancelled, and the files that visitors uploaded or made are removed.
    Raises UserError for a model that cannot dance, and for a port that is taken.
    """
    with tempfile.TemporaryDirectory(prefix="champ-jax-app-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        jobs = Jobs(pipe, root / "made", limits)
        port = check_port(host, port)
        # Gradio looks at both when it is imported or builds a page. What it serves lies in its own folder, and nowhere else.
        before, uploads = os.environ.get("GRADIO_TEMP_DIR"), str(root / "uploads")
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=uploads)
        page = None
        try:
            from starlette.middleware import Middleware

            from champ_jax.app.page import CSS, THEME, build_page

            page = build_page(jobs, name)
            page.launch(
                server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True, show_error=False, ssr_mode=False,
                mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[], theme=THEME, css=CSS, allowed_paths=[],
                max_file_size=round(limits.upload_mb * 2**20), app_kwargs={"middleware": [Middleware(OwnThingsOnly)]},
                _frontend=False,  # else Gradio asks for the page once and gives up after 3 s, which a busy machine can take
            )  # fmt: skip
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            jobs.stop()
            if page is not None:
                page.close(verbose=False)
            if os.environ.get("GRADIO_TEMP_DIR") == uploads:  # another server, begun since, goes on with a folder of its own
                os.environ.pop("GRADIO_TEMP_DIR")
                os.environ.update({"GRADIO_TEMP_DIR": before} if before else {})
