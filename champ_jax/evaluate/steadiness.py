"""How a video goes from frame to frame, beside how the reference video does: each value is a pair of both."""

import numpy as np

from champ_jax.evaluate.clips import Flow
from champ_jax.evaluate.networks import Network
from champ_jax.metrics import temporal

Pair = tuple[float, float]
"""A value of the generated video and of the reference; nan for what there is not."""


class Steadiness:
    """Collects blocks of one clip. The flow is the reference's: given, by a network (RAFT), or by dense inverse search."""

    def __init__(self, flow: Flow | None = None, network: Network | None = None):
        self._flow, self._network = flow, network
        self._kept: tuple[np.ndarray, np.ndarray | None] | None = None
        self._done = 0  # pairs of frames so far
        self._found: dict[str, tuple[list, list]] = {}

    @property
    def source(self) -> str:
        """Where the flow comes from, in words."""
        return "exact" if self._flow is not None else self._network.label if self._network else "dense inverse search"

    def add(self, generated: np.ndarray, reference: np.ndarray | None) -> None:
        """The next frames of both, u8 [n,H,W,3]."""
        videos, old = [generated, reference], 0
        if self._kept is not None:
            old = len(self._kept[0])
            videos = [new if kept is None else np.concatenate([kept, new]) for kept, new in zip(self._kept, videos)]
        pairs = slice(max(old - 1, 0), None)
        same = reference is not None and generated.shape[1:] == reference.shape[1:]
        for side, video in enumerate(videos):
            if video is None:
                continue
            if len(video[pairs]) > 1:
                self._extend(side, temporal.scores(video[pairs]))
            if len(video) > 2:
                self._extend(side, temporal.scores_between(video))
        if same and len(videos[0][pairs]) > 1:
            forward, seen = self._flows(videos[1][pairs])
            for side, video in enumerate(videos):
                self._extend(side, temporal.scores_along(video[pairs][: len(forward) + 1], forward, seen))
            self._extend(0, temporal.scores_against(videos[1][pairs], videos[0][pairs]))
            self._done += len(videos[0][pairs]) - 1
        self._kept = tuple(None if video is None else video[-2:] for video in videos)

    def _extend(self, side: int, scores: dict[str, np.ndarray]) -> None:
        for name, values in scores.items():
            self._found.setdefault(name, ([], []))[side].extend(values)

    def _flows(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of frames u8 [n,H,W,3]: flow to the next [n-1,H,W,2] and where it can be followed [n-1,H,W]."""
        count = len(video) - 1
        if self._flow is not None:
            part = slice(self._done, self._done + count)
            return self._flow.forward[part], self._flow.seen[part]
        forward, seen = [], []
        for first, second in zip(video[:-1], video[1:]):
            if self._network:
                there, back = (self._network.call(one[None], other[None])[0] for one, other in ((first, second), (second, first)))
            else:
                there, back = temporal.estimate_flow(first, second), temporal.estimate_flow(second, first)
            forward.append(there)
            seen.append(temporal.visible(there, back))
        return np.stack(forward), np.stack(seen)

    def values(self) -> dict[str, Pair]:
        """{metric: (of the generated video, of the reference)}."""
        return {name: (_mean(own), _mean(real)) for name, (own, real) in self._found.items()}

    def series(self) -> dict[str, list[float]]:
        """Warp error of each pair of frames, for whoever looks for the worst place."""
        return {"warp_error": [float(value) for value in self._found["warp_error"][0]]}


def _mean(values: list[float]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
