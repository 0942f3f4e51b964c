"""Files that are there whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from champ_jax.errors import UserError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """`with atomic_file(path) as file`: a binary file that takes its name only when all of it is written.

    The folder is made where it is missing. Raises UserError when the system does not let it.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:
            yield file
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error}") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, as `atomic_file` does. Names of files need not be Unicode: what is not is written with backslashes."""
    with atomic_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))
