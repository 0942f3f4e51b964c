"""Every metric that a report can hold: what it is called, which way is better, how many it takes to mean something, and what it needs.

A new one takes two files: the formula and its line in the `scores` of its file in champ_jax/metrics (or, of what a network sees, in
looks.py or sets.py), and its row here.
"""

from typing import NamedTuple

HIGHER, LOWER, REAL = "higher", "lower", "as real"
STRICT, DISCO = "strict", "disco-compat"
PROTOCOLS = (STRICT, DISCO)
GROUPS = {
    "Quality": "needs --reference",
    "Distribution": "needs --reference",
    "Steadiness": "needs --generated",
    "Consistency": "needs --generated",
    "Style": "needs --references with the photos",
    "Identity": "needs --references with the photos, and --faces",
    "Pose": "needs --estimator, and --reference-motion or --reference",
    "Music": "needs --motion or --estimator, and --music",
    "Motion": "needs --motion or --estimator",
    "Efficiency": "needs --run",
}
"""What a metric of each group lacks where it has no value."""
MADE = "needs NAME.made.json beside the videos, as champ-jax dance and animate leave it"


class Metric(NamedTuple):
    """title and unit: for people. better: HIGHER, LOWER, or REAL for one that should be the reference's. decimals: shown.

    least: how many of `counts` it takes to say something; below, a note stands beside it. network: that it looks through, or "".
    protocol: the only one that it is of, or "". needs: what it lacks without a value, where that is not its group's. optional: absent,
    rather than empty, without a value: it needs more than folders hold.
    """

    group: str
    title: str
    better: str
    decimals: int = 3
    unit: str = ""
    least: int = 5
    counts: str = "clips"
    network: str = ""
    protocol: str = ""
    needs: str = ""
    optional: bool = False


METRICS: dict[str, Metric] = {
    "psnr": Metric("Quality", "PSNR", HIGHER, 2, "dB"),
    "ssim": Metric("Quality", "SSIM", HIGHER, 4),
    "ms_ssim": Metric("Quality", "MS-SSIM", HIGHER, 4, protocol=STRICT, needs="needs frames of 176 pixels and more"),
    "l1": Metric("Quality", "L1", LOWER, 4),
    "lpips_alex": Metric("Quality", "LPIPS (AlexNet)", LOWER, 4, network="lpips_alex"),
    "lpips_vgg": Metric("Quality", "LPIPS (VGG)", LOWER, 4, network="lpips_vgg"),
    "psnr_person": Metric("Quality", "PSNR in the person", HIGHER, 2, "dB", optional=True),
    "ssim_person": Metric("Quality", "SSIM in the person", HIGHER, 4, optional=True),
    "fid": Metric("Distribution", "FID", LOWER, 2, least=2048, counts="feature vectors", network="inception"),
    "kid": Metric("Distribution", "KID", LOWER, 5, least=200, counts="feature vectors", network="inception"),
    "fid_vid": Metric("Distribution", "FID-VID", LOWER, 2, least=256, counts="feature vectors", network="resnet3d"),
    "fvd": Metric("Distribution", "FVD", LOWER, 2, least=256, counts="feature vectors", network="i3d"),
    "warp_error": Metric("Steadiness", "Warp error", REAL, 6),
    "flicker": Metric("Steadiness", "Temporal flickering (VBench)", REAL, 5),
    "motion_smoothness": Metric("Steadiness", "Motion smoothness", REAL, 5),
    "dtssd": Metric("Steadiness", "dtSSD", LOWER, 3),
    "clip_consistency": Metric("Consistency", "CLIP, successive frames", REAL, 4, network="clip"),
    "clip_subject": Metric("Consistency", "CLIP, to the first frame and the one before", REAL, 4, network="clip"),
    "dino_consistency": Metric("Consistency", "DINO, successive frames", REAL, 4, network="dino"),
    "dino_subject": Metric("Consistency", "DINO, to the first frame and the one before", REAL, 4, network="dino"),
    "style_gram": Metric("Style", "Gram distance to the photo", LOWER, 6, network="style"),
    "style_clip": Metric("Style", "CLIP cosine to the photo", HIGHER, 4, network="clip"),
    "style_colours": Metric("Style", "Colours of body parts to the photo's, CIELAB", LOWER, 2, optional=True),
    "csim": Metric("Identity", "CSIM", HIGHER, 3),
    "csim_centred": Metric("Identity", "CSIM less the mean of others", HIGHER, 3),
    "csim_all_frames": Metric("Identity", "CSIM, 0 without a face", HIGHER, 3),
    "face_detected": Metric("Identity", "Frames with a face", HIGHER, 3),
    "identity_top1": Metric("Identity", "Right one of the people, by colours", HIGHER, 3, optional=True),
    "pck_05": Metric("Pose", "PCK at 0.05 of the body", HIGHER, 3),
    "pck_10": Metric("Pose", "PCK at 0.1 of the body", HIGHER, 3),
    "mpjpe": Metric("Pose", "MPJPE", LOWER, 4, "of the body"),
    "oks": Metric("Pose", "OKS", HIGHER, 3),
    "oks_ap": Metric("Pose", "OKS, AP", HIGHER, 3),
    "beat_corrected": Metric("Music", "Beat alignment above chance", HIGHER, 3),
    "beat_music": Metric("Music", "Beat alignment over music beats, 50 ms", REAL, 3),
    "beat_motion": Metric("Music", "Beat alignment over motion beats, 50 ms", REAL, 3),
    "beat_f1": Metric("Music", "Beat F1, 70 ms", HIGHER, 3),
    "beat_lag": Metric("Music", "Lag of the best fit", REAL, 3, "s"),
    "beat_bailando": Metric("Music", "BAS as Bailando publishes it", REAL, 4),
    "beat_fact": Metric("Music", "BAS as FACT publishes it", REAL, 4),
    "fid_k": Metric("Music", "FID_k", LOWER, 2, least=100),
    "fid_g": Metric("Music", "FID_g", LOWER, 2, least=100),
    "fid_k_compat": Metric("Music", "FID_k as published", LOWER, 2, least=100, protocol=DISCO),
    "fid_g_compat": Metric("Music", "FID_g as published", LOWER, 2, least=100, protocol=DISCO),
    "diversity_k": Metric("Music", "Diversity, kinetic", REAL, 2, least=20),
    "diversity_g": Metric("Music", "Diversity, geometric", REAL, 2, least=20),
    "energy": Metric("Motion", "Motion energy", REAL, 3, "torsos/s"),
    "energy_ratio": Metric("Motion", "Energy of the real motion's", REAL, 3),
    "frozen": Metric("Motion", "Frozen clips", LOWER, 2),
    "out_of_frame": Metric("Motion", "Joints out of the frame", REAL, 3),
    "jerk": Metric("Motion", "Jerk", REAL, 1, "torsos/s^3"),
    "high_frequency": Metric("Motion", "Speed above 8 Hz", REAL, 4),
    "foot_skate": Metric("Motion", "Sliding of standing feet", REAL, 3),
    "pfc_2d": Metric("Motion", "PFC in the plane", REAL, 3),
    "pfc": Metric("Motion", "PFC", REAL, 3),
    "step_seconds": Metric("Efficiency", "Training step, median", LOWER, 4, "s", least=20, counts="steps"),
    "step_seconds_p90": Metric("Efficiency", "Training step, 90th percentile", LOWER, 4, "s", least=20, counts="steps"),
    "input_wait": Metric("Efficiency", "Waiting for input", LOWER, 4, "of the time", least=1),
    "compile_seconds": Metric("Efficiency", "Compiling", LOWER, 1, "s", least=1),
    "train_frames_per_second": Metric("Efficiency", "Frames trained on", HIGHER, 2, "1/s", least=1),
    "mfu": Metric("Efficiency", "MFU", HIGHER, 3, least=1),
    "mfu_of_ceiling": Metric("Efficiency", "MFU of the padded ceiling", HIGHER, 3, least=1),
    "peak_memory": Metric("Efficiency", "Peak memory", LOWER, 2, "GB", least=1),
    "frames_per_second": Metric("Efficiency", "Frames made", HIGHER, 2, "1/s", least=1, needs=MADE),
    "first_frame_seconds": Metric("Efficiency", "Time to the first frame", LOWER, 2, "s", least=1, needs=MADE),
}
