"""Videos from trained weights: photos and maps in, sampling, pipelines, video files, scores and the report."""
