"""Rendered people as records: bodies, clothes and scenes, motion capture, songs composed by code, and their pairing."""
