"""Rows of music features at the times of video frames. Seconds are the only clock: rates may be any rationals."""

import numpy as np

# Columns that do not interpolate, by feature kind: 0/1 events, and the (sin, cos) of a phase. See audio/features.py.
_EVENTS = {"rich192": (186, 187), "fact35": (33, 34)}
_PHASES = {"rich192": (188, 189)}


def _columns(table: dict[str, tuple[int, ...]], spec: str) -> np.ndarray:
    """Column numbers for a spec such as "rich192@24"; stack4800 is 25 copies of rich192 side by side."""
    kind = spec.split("@")[0]
    if kind == "stack4800":
        return np.add.outer(np.arange(25) * 192, table.get("rich192", ())).ravel().astype(int)
    return np.array(table.get(kind, ()), int)


def rows_at(music: np.ndarray, rate: float, seconds: np.ndarray, interval: float, spec: str) -> np.ndarray:
    """float32 [F,Dm]: rows of `music` [Tm,Dm], whose row k is at k/rate, at `seconds` [F].

    Numbers are interpolated linearly; events happen in a frame if they happen anywhere in the `interval` seconds
    around it; phases are interpolated as points on the circle. Beyond either end the last row holds.
    """
    position = np.clip(np.asarray(seconds, np.float64) * rate, 0, len(music) - 1)
    nearest = np.rint(position)
    if np.abs(position - nearest).max(initial=0.0) < 1e-6 and abs(interval * rate - 1) < 1e-6:
        return music[nearest.astype(int)].astype(np.float32)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, len(music) - 1)
    share = (position - low)[:, None].astype(np.float32)
    rows = music[low].astype(np.float32) * (1 - share) + music[high].astype(np.float32) * share

    phases = _columns(_PHASES, spec).reshape(-1, 2)
    circle = rows[:, phases]
    length = np.linalg.norm(circle, axis=-1, keepdims=True)
    rows[:, phases] = np.divide(circle, length, out=circle, where=length > 1e-6)

    events = _columns(_EVENTS, spec)
    if len(events):
        counts = np.concatenate([np.zeros((1, len(events))), np.cumsum(music[:, events] > 0.5, axis=0)])
        half = interval * rate / 2
        first = np.clip(np.ceil(position - half - 1e-9), 0, len(music)).astype(int)
        end = np.clip(np.ceil(position + half - 1e-9), first, len(music)).astype(int)
        rows[:, events] = counts[end] > counts[first]
    return rows
