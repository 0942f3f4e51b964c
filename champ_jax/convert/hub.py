"""Paths that name a file on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from champ_jax.convert.state import SUFFIXES
from champ_jax.errors import UserError

PREFIX = "hf:"


def local_path(path: str | Path) -> Path:
    """The file or folder that `path` means: a local one, or `"hf:owner/name[/file][@revision]"`, which is fetched.

    Raises UserError when there is none, when huggingface_hub is not installed, or when the hub does not give it.
    """
    text = str(path)
    if not text.startswith(PREFIX) or Path(text).exists():
        found = Path(path)
        if not found.exists():
            raise UserError(f"{path}: there is no such file or folder.")
        return found
    name, _, revision = text.removeprefix(PREFIX).partition("@")
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository:
        raise UserError(f"{path}: expected hf:owner/name, hf:owner/name/file, or either with @revision behind it.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{path} is on the hub: pip install huggingface_hub, or give a local path.") from error
    arguments = {"repo_id": f"{owner}/{repository}", "revision": revision or None}
    try:
        if Path(file).suffix in SUFFIXES:
            return Path(huggingface_hub.hf_hub_download(filename=file, **arguments))
        patterns = [f"{file}/*" if file else "*"]
        return Path(huggingface_hub.snapshot_download(allow_patterns=patterns, **arguments)) / file
    except (OSError, ValueError, RuntimeError) as error:  # what it raises without a network, or for an unknown name
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} could not be fetched: {reason}. Download it by hand and give its path.") from error
