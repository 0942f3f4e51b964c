"""Weights from and to the files of the PyTorch world, without PyTorch."""

from champ_jax.convert.checkpoints import Report, export_checkpoint, import_checkpoint, inspect_checkpoint, recognise, save_import
from champ_jax.convert.kinds import KINDS

__all__ = ["KINDS", "Report", "export_checkpoint", "import_checkpoint", "inspect_checkpoint", "recognise", "save_import"]
