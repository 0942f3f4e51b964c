"""Checkpoints of training runs (store), their integrity, weights in component folders, and partial loading."""
