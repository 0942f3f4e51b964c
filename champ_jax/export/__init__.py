"""Trained models for other runtimes and smaller numbers: quantisation, StableHLO, ONNX, TensorRT."""
