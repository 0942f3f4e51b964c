"""Tiny models to export: one of every part there is, and one as plain as can be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from champ_jax.export.graphs import choose_shapes, make_graphs
from champ_jax.export.write import example_inputs
from champ_jax.infer.pipeline import build_pipeline
from tests.infer.tiny import TINY_M2P, tiny_config, tiny_params

CLIP = {"hidden": 16, "intermediate": 32, "layers": 1, "heads": 2, "patch": 8, "image_size": 16, "projection": 16}
SETTINGS = {"size": [32, 32], "fps": 12.0, "window": 4, "overlap": 1, "steps": 2, "guidance_scale": 2.0, "motion_window": 24}


def pipeline(config):
    """A pipeline of random parameters."""
    return build_pipeline(tiny_params(config), {**dataclasses.asdict(config), "pipeline": SETTINGS}, "a tiny model")


@pytest.fixture(scope="session")
def everything():
    """Style, two sizes of reference, faces, fused guidance, CLIP, M2P; of one level, which is quick to compile."""
    face = {"embedding": 4, "width": 16, "clip_width": 16}
    parts = {"channels": (32,), "attention_levels": (True,), "style": (0,), "coarse": (0,), "identity": "plain", "face_id": face}
    return pipeline(tiny_config(m2p=TINY_M2P, guidance={"fusion": "attention"}, clip=CLIP, **parts))


@pytest.fixture(scope="session")
def plain():
    """No CLIP, no M2P, no face."""
    return pipeline(tiny_config(channels=(32,), attention_levels=(True,)))


@pytest.fixture(scope="session")
def graphs(everything):
    """Its graphs, with two photos."""
    return {graph.name: graph for graph in make_graphs(everything, choose_shapes(everything, photos=2))}


@pytest.fixture(scope="session")
def half_graphs(everything):
    """The same that compute in float16."""
    return make_graphs(everything, choose_shapes(everything, photos=2), jnp.float16)


@pytest.fixture(scope="session")
def truth(graphs):
    """graph name -> (example inputs, what JAX makes of them)."""
    made = {}
    for name, graph in graphs.items():
        inputs = example_inputs(graph)
        params = {path: np.asarray(array) for path, array in graph.params.items()}
        made[name] = inputs, jax.device_get(jax.jit(graph.function)(params, inputs))
    return made
