"""Training: stages, the step, the loop, and what surrounds them."""
