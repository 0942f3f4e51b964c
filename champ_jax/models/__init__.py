"""The networks, built from configurations."""
