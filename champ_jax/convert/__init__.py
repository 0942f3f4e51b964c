"""Weights from and to the files of the PyTorch world, without PyTorch."""
