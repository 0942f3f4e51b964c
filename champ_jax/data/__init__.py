"""Data: records of clips, what reads and checks their files, and loaders that turn them into training batches.

`dancers` renders records, `prepare` makes them from a user's videos, `estimate` holds the models that find people, faces and maps in
pictures. Nothing here imports flax or models.
"""
