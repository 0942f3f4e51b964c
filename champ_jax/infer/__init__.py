"""Videos from trained weights: photos, songs and maps in, sampling, films out, whole or while the song plays."""
