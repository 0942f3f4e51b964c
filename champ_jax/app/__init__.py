"""A page on which to try a model in a browser. `jobs` holds what it does, `page` how it looks, `serve` how it is reached."""
