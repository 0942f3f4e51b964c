"""Music in: loading, frame-centred features (JAX) and beats (host)."""
