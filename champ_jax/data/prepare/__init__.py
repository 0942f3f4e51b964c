"""Videos and folders of frames to records: what is in them, their clips one by one, the set, and its sheet and check."""
