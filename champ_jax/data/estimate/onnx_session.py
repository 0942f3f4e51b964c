"""An ONNX model of a user's, opened with one thread: preparing data runs a process a core."""

import importlib.util
from pathlib import Path

from champ_jax.errors import UserError


def open_session(path: Path):
    """An onnxruntime session of a file. Raises UserError when onnxruntime or the file is missing, or the file is no model."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such ONNX file")
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError("ONNX models need the package onnxruntime: run `pip install -e '.[pose]'` in the repository")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime has a type of its own for each reason
        raise UserError(f"{path}: no ONNX model that onnxruntime can open ({str(error).splitlines()[0][:200]})") from error
