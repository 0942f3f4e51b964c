"""Judging what models make: metrics over clips, sets of clips, dances and runs, and the reports that show them."""
