"""Poses: the 134-keypoint skeleton, its normalisation, its drawing on the host and on the device, retargeting.

Import the modules directly (`from champ_jax.pose import draw`): data workers need the drawing and not JAX.

Pixel coordinates are continuous everywhere: u in [0, W], v in [0, H], the centre of the top left pixel is (0.5, 0.5).
"""
