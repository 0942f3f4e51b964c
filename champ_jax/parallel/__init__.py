"""Devices as a mesh, how arrays are laid out on it, and how processes on several machines find each other."""
