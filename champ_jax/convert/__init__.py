"""Weights from and to the files of the PyTorch world, without PyTorch."""

#from champ_jax.convert import champ, clip, vae

#__all__ = ["champ", "clip", "vae"]
