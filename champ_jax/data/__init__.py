"""Data: records of clips, and loaders that turn them into training batches. Imports neither flax nor models."""
