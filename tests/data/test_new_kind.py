"""A new kind of guidance map takes two lines in two files, dims.py and data/schema.py; all else follows."""

import subprocess
import sys

from tests.contract.source import REPOSITORY

SCRIPT = '''
import dataclasses, sys, types
from pathlib import Path

ROOT, OUT = Path(sys.argv[1]), Path(sys.argv[2])


def changed(name, old, new):
    """Imports a module as if its file had the new text in place of the old."""
    text = (ROOT / f"{name.replace('.', '/')}.py").read_text()
    assert text.count(old) == 1, f"{name} has no {old}"
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(text.replace(old, new), name, "exec"), module.__dict__)


changed("champ_jax.dims", '"semantic_map", "dwpose")', '"semantic_map", "edges", "dwpose")')
changed("champ_jax.data.schema", '"semantic_map": 3}', '"semantic_map": 3, "edges": 1}')

import numpy as np
from PIL import Image
from champ_jax.data.codecs import encode_image
from champ_jax.data.loader import make_loader
from champ_jax.data.prepare.clip_folder import read_clip_folder
from champ_jax.data.records import open_records, write_records
from champ_jax.infer.maps import open_guidance
from champ_jax.models.animator import abstract_model
from tests.data.conftest import example
from tests.infer.tiny import tiny_config

edges = [np.full((48, 48), 40 * number, np.uint8) for number in range(6)]
for name in ("images", "edges"):
    (OUT / "clip" / name).mkdir(parents=True)
    for number, image in enumerate(edges):
        Image.fromarray(image).save(OUT / "clip" / name / f"{number:04}.png")
assert len(read_clip_folder(OUT / "clip", OUT, "champ").maps["edges"]) == 6
assert open_guidance(OUT / "clip", ("edges",), (48, 48))["edges"].shape == (6, 48, 48, 3)

write_records(OUT, "train", [example() | {"edges": [encode_image("edges", image) for image in edges]}])
loader = make_loader(open_records(OUT, "train"), stage="C", batch_size=1, frames=6, size=48, kinds=("edges", "dwpose"), train=False)
batch = next(iter(loader))
assert [int(image.max()) for image in batch["guidance"]["edges"][0]] == [40 * number for number in range(6)]

config = dataclasses.replace(tiny_config(), kinds=("edges", "dwpose"))
assert set(abstract_model(config)[1]["guidance"]) == {"edges", "dwpose"}

old = open_records(ROOT / "assets" / "dancers", "test")  # made before there were edges
assert "edges" not in old.infos[0].maps and len(old[0]["edges"]) == 0
'''


def test_a_kind_takes_two_files(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, REPOSITORY, tmp_path], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
