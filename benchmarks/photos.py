"""What a second photo, from behind, is worth to people who turn, and whether another person's photo gives that person.

    champ-jax dancers --out runs/turn96 --split test --identities 8 --clips 1 --seconds 4 --turn 720 --size 96
    python -m benchmarks.photos --data runs/turn96 --sheet photos.png

Each person turns once in the 24 frames that are animated and once more in those that the photos are from. Prints PSNR inside the
person, over all people, of the frames that show the back and of the others; the sheet has, for each person, the photos from
the front and from behind, the skeleton, the truth, what was made of the first photo and of both, another person's photo, and
what was made of that.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import DEMO, make_parser, psnr
from champ_jax.data.records import open_records
from champ_jax.evaluate import held_out
from champ_jax.infer.pipeline import load_pipeline

FRAMES = 24
NOSE, SHOULDERS = 0, (2, 5)  # joints; of the shoulders the right one first
SEEN, HIDDEN = 0.5, 0.3
NAMES = ("one photo", "two photos", "another's photo")


def read(clip) -> tuple[held_out.HeldOutClip, np.ndarray]:
    """A clip with its widest view of the front and of the back as photos, and which of its first frames [F] show the back."""
    keypoints, confidence = clip.keypoints(clip["frame_index"])
    nose, width = confidence[:, NOSE], (keypoints[:, SHOULDERS[1]] - keypoints[:, SHOULDERS[0]])[:, 0]
    later = np.arange(FRAMES, clip.stored)
    front = later[np.where(nose[later] > SEEN, width[later], -np.inf).argmax()]
    back = later[np.where(nose[later] < HIDDEN, -width[later], -np.inf).argmax()]
    return held_out.read_clip(clip, clip.size, FRAMES, photos=np.array([front, back])), nose[:FRAMES] < HIDDEN


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", default=DEMO, help="the model that animates")
    parser.add_argument("--data", default="runs/turn96", help="records of people who turn")
    parser.add_argument("--sheet", type=Path, default=Path("photos.png"), help="the picture to write")
    args = parser.parse_args()
    records, pipe = open_records(args.data, "test"), load_pipeline(args.checkpoint)
    clips = [read(records[number]) for number in range(len(records))]
    rows, scores = [], {name: [] for name in NAMES}
    for number, (clip, away) in enumerate(clips):
        other = clips[(number + 1) % len(clips)][0]
        asked = (clip.photos[:1], clip.poses[:1]), (clip.photos, clip.poses), (other.photos[:1], other.poses[:1])
        guidance = {kind: clip.guidance[kind] for kind in pipe.kinds}
        frames = [pipe.animate(list(photos), guidance, pose=poses, size=clip.photos.shape[1:3]).frames for photos, poses in asked]
        person = clip.truth.mask > 0
        for name, made in zip(NAMES, frames):
            scores[name].append([psnr(made[view], clip.truth.frames[view], person[view]) for view in (away, ~away)])
        shown = np.flatnonzero(away)[away.sum() // 2]
        one, two, another = (made[shown] for made in frames)
        rows.append([*clip.photos, clip.guidance["dwpose"][shown], clip.truth.frames[shown], one, two, other.photos[0], another])
    for name, values in scores.items():
        behind, before = np.mean(values, axis=0)
        print(f"{name:18} {behind:6.2f} dB where the back shows, {before:6.2f} dB elsewhere")
    Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows])).save(args.sheet)


if __name__ == "__main__":
    main()
