"""From a song and a photo to a dance video: training and inference of human animation, in JAX.

    import champ_jax as cj
    pipe = cj.load_pipeline("runs/quickstart/model")
    pipe.dance("photo.png", "song.wav").save("dance.mp4", audio="song.wav")

Names are loaded when they are first used (PEP 562), so that `import champ_jax` itself costs next to nothing.
"""

from importlib import import_module

from champ_jax.errors import UserError

__version__ = "0.1.0"

# Public name -> the module it lives in and its name there ("" for the module itself).
_HOMES = {
    "load_pipeline": ("champ_jax.infer.pipeline", "load_pipeline"),
    "build": ("champ_jax.models.animator", "Animator"),
    "train_step": ("champ_jax.train.step", "make_step"),
    "sample": ("champ_jax.infer.sample", "sample_latents"),
    "convert": ("champ_jax.convert", ""),
}

__all__ = ["UserError", "__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'champ_jax' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__():
    return sorted(__all__)
