"""Metrics as functions of arrays: images, videos, motion, beats, identity, distances of sets. Nothing here reads a file."""
