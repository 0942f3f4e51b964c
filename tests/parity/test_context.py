"""Every recorded table of CHAMP's `uniform` windows, exactly."""

from champ_jax.diffusion.windows import champ_windows


def test_windows(load):
    for name, recorded in load("context.json").items():
        values = dict(part.split("=") for part in name.split(","))
        closed_loop = values.pop("closed_loop", "True") == "True"
        n, size, overlap, stride, step = (int(values[key]) for key in ("n", "size", "overlap", "stride", "step"))
        assert champ_windows(n, size, overlap, stride, step, closed_loop) == recorded, name
