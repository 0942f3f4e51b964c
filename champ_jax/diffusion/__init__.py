"""Diffusion maths on plain arrays: noise schedules, samplers, losses, guidance and windows over long clips."""
