"""What every process is that makes records beside others."""

import os
import signal


def become_worker() -> None:
    """Gives this process one core and no accelerator for the songs' features."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends the others
    os.environ["JAX_PLATFORMS"] = "cpu"
    import cv2
    import jax

    jax.config.update("jax_platforms", "cpu")  # an import of its caller's may have read the environment before
    cv2.setNumThreads(1)
