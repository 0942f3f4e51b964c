"""Layers that know nothing of the models built from them."""
