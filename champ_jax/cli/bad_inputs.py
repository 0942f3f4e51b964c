"""Inputs with one thing wrong, and whether each is refused with its name: what a run must not swallow."""

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from champ_jax.errors import INTERRUPTED, WRONG_INPUT

CUT = 1 << 20  # bytes that are left of a file, at most
PIXELS = 64
LONGEST = 240  # characters of an answer that are kept
AS_WEIGHTS_SAY = '''"""Stage B of whatever the weights are."""
from champ_jax.config import load_config


def get_config():
    """The demo's, with no word about the model."""
    config = load_config("demo_b:no_reference").unlock()
    config.model = {}
    return config.lock()
'''


def try_bad_inputs(weights: str, directory: str) -> dict[str, Any]:
    """Gives each bad input to its command: {"cases": [{"name", "refused", "answer"}]}.

    weights: of an image model that is right, directory: records that are; copies of them are spoilt. Refused is what ends with
    the exit code of wrong input and an answer that names what is wrong.
    """
    from champ_jax.cli.main import main

    cases = []
    with tempfile.TemporaryDirectory() as place:
        for name, command, named in bad_inputs(Path(place), Path(weights), Path(directory)):
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                try:
                    code = main(command)
                except Exception as error:  # what must not happen to a user, and is counted here
                    code = 1
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            lines = [line.strip() for line in said.getvalue()[max(0, said.getvalue().find("error:")) :].splitlines()]
            answer = " ".join(lines).replace(f"{place}/", "").replace(weights, "WEIGHTS").replace(directory, "DATA")
            cases.append({"name": name, "refused": code == WRONG_INPUT and named in answer, "answer": answer[:LONGEST].replace("|", "\\|")})
    return {"cases": cases}


def bad_inputs(place: Path, weights: Path, directory: Path) -> Iterator[tuple[str, list[str], str]]:
    """(what is wrong, the command's words, what the answer must name) of each, made in the folder `place`."""
    photo, maps = place / "photo.png", place / "maps"
    Image.fromarray(np.full((PIXELS, PIXELS, 3), 128, np.uint8)).save(photo)
    for kind in ("dwpose", "depth"):
        (maps / kind).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((PIXELS, PIXELS, 3), 64, np.uint8)).save(maps / kind / f"{number}.png")

    def animate(**changed: Path | str) -> list[str]:
        options = {"checkpoint": weights, "image": photo, "guidance": maps, "out": place / "out.mp4", **changed}
        return ["animate", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    def train(*changes: str, config: str = "demo_b") -> list[str]:
        values = [f"--config.data.directory={directory}", f"--config.data.size={PIXELS}", *(f"--config.{change}" for change in changes)]
        return ["train", "--config", config, "--workdir", str(place / "run"), *values]

    yield "weights that are not there", animate(checkpoint=place / "no_weights"), "no_weights"
    yield "a file of weights that was cut off", animate(checkpoint=_cut(weights, place / "cut_weights")), "cut_weights"
    yield "weights with an array missing", animate(checkpoint=_without(weights, place / "without")), "denoiser/conv_in/kernel"
    yield "a photo that is not there", animate(image=place / "nobody.png"), "nobody.png"
    broken = place / "broken.png"
    broken.write_bytes(photo.read_bytes()[:60])
    yield "a broken photo", animate(image=broken), "broken.png"
    (place / "no_maps").mkdir()
    yield "a folder without maps", animate(guidance=place / "no_maps"), "no_maps"
    shutil.copytree(maps, place / "uneven")
    (place / "uneven" / "depth" / "3.png").unlink()
    yield "kinds of maps with different numbers of frames", animate(guidance=place / "uneven"), "depth"
    yield "a frame size that the network cannot have", animate(size="61x64"), "61x64"
    yield "a song for a model without M2P", _dance(place, weights, photo), "M2P"
    yield "a configuration that is not there", train(config="stage_e"), "stage_e"
    yield "a misspelt setting", train("optim.learning_rat=1"), "optim.learning_rat"
    yield "a setting of another type", train("optim.steps=many"), "optim.steps"
    yield "training from weights of another geometry", train(f"init_from={weights}"), "were trained with"
    yield "records that are not there", train(f"data.directory={place / 'no_records'}"), "no_records"
    yield (
        "records that were cut off",
        train(f"data.directory={_cut(directory, place / 'cut_records')}", f"init_from={weights}"),
        "cut_records",
    )
    as_weights_say = place / "as_weights_say.py"
    as_weights_say.write_text(AS_WEIGHTS_SAY)
    crowd = train("data.batch_size=10000", f"init_from={weights}", config=str(as_weights_say))
    yield "a batch that no validation batch fills", crowd, "batch of 10000"


def _dance(place: Path, weights: Path, photo: Path) -> list[str]:
    import soundfile

    soundfile.write(place / "song.wav", np.sin(np.arange(44100) / 20.0), 22050)
    words = {"checkpoint": weights, "image": photo, "music": place / "song.wav", "out": place / "out.mp4"}
    return ["dance", *(word for name, value in words.items() for word in (f"--{name}", str(value)))]


def _cut(folder: Path, copy: Path) -> Path:
    """A folder like `folder`, whose largest file lacks its second half; the others are links."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    for path in files:
        place = copy / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path is not largest:
            place.symlink_to(path.resolve())
            continue
        with open(path, "rb") as file:
            place.write_bytes(file.read(min(path.stat().st_size // 2, CUT)))
    return copy


def _without(folder: Path, copy: Path) -> Path:
    """A copy of a folder of weights whose denoiser lacks the kernel of its first convolution."""
    from champ_jax.checkpoint.weights import load_weights, save_weights

    params, config = load_weights(folder)
    del params["denoiser"]["conv_in"]["kernel"]
    save_weights(copy, params, config)
    return copy
