"""Songs composed by code, so that their beats are exact and their licence is the repository's.

A song is a chain of four-bar phrases in 4/4. Where one is inside the phrase can be heard, because the dance is a
function of it (champ_jax/data/dancers/choreography.py): a chord a bar, a cymbal on the phrase's first beat, a melody that
repeats with the phrase, and a drum fill at the end of the fourth bar. Equal (style, seed, tempo, bars) give equal
samples. Instruments are in champ_jax/data/dancers/synth.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from champ_jax.data.dancers import synth
from champ_jax.data.dancers.synth import RATE
from champ_jax.errors import UserError

LEAD_IN = 0.25  # seconds before the first beat, so that its attack can be heard
TAIL = 0.5
STEPS = 16  # sixteenth notes a bar
BEATS_PER_BAR = 4
BARS_PER_PHRASE = 4
CHORDS = {
    "M": (0, 4, 7),
    "m": (0, 3, 7),
    "M7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "7": (0, 4, 7, 10),
    "m9": (0, 3, 10, 14),
    "9": (0, 4, 10, 14),
}
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "dorian": (0, 2, 3, 5, 7, 9, 10)}
BASS_STEP = {"0": 0, "5": 7, "8": 12, "7": 10}  # characters of a bass pattern -> semitones over the chord's root


@dataclass(frozen=True)
class Style:
    """What makes a genre: patterns have a character per sixteenth of a bar; 'x' a hit, 'o' a soft one, '.' none.

    tempo: lowest and highest bpm; progressions: four chords each, (semitones over the key, name in CHORDS); bass: see
    BASS_STEP; comp: rhythm of the chord instrument `chords`; swing: share of an eighth that its first sixteenth takes.
    """

    tempo: tuple[int, int]
    scale: str
    progressions: tuple[tuple[tuple[int, str], ...], ...]
    kick: str
    snare: str
    clap: str
    hat: str
    open_hat: str
    bass: str
    bass_cutoff: float
    comp: str
    chords: str
    melody: str
    swing: float = 0.5
    pump: float = 0.0
    square_lead: bool = False


STYLES = {
    "house": Style(
        (121, 127),
        "minor",
        (((0, "m7"), (8, "M7"), (3, "M7"), (10, "7")), ((0, "m7"), (5, "m7"), (8, "M7"), (7, "m7"))),
        kick="x...x...x...x...",
        snare="................",
        clap="....x.......x...",
        hat="o.oxo.oxo.oxo.ox",
        open_hat="..x...x...x...x.",
        bass="..0...0...0.0.8.",
        bass_cutoff=700,
        comp="x..x..x...x..x..",
        chords="stab",
        melody="x..x..x...x.....",
        pump=0.6,
    ),
    "funk": Style(
        (100, 108),
        "dorian",
        (((0, "m7"), (5, "9"), (0, "m9"), (7, "m7")), ((0, "9"), (10, "9"), (5, "9"), (7, "7"))),
        kick="x.x.....x.......",
        snare="....x..o.o..x..o",
        clap="................",
        hat="x.oxx.oxx.oxx.ox",
        open_hat="..............x.",
        bass="0..0..8.0..05.7.",
        bass_cutoff=1100,
        comp="x.....x...x.....",
        chords="scratch",
        melody="x.x..x..x.x.....",
        swing=0.54,
        square_lead=True,
    ),
    "pop": Style(
        (92, 99),
        "major",
        (((0, "M"), (7, "M"), (9, "m"), (5, "M")), ((9, "m"), (5, "M"), (0, "M"), (7, "M"))),
        kick="x.......x.x.....",
        snare="....x.......x...",
        clap="....o.......o...",
        hat="x.o.x.o.x.o.x.o.",
        open_hat="................",
        bass="0.0.0.0.0.0.0.5.",
        bass_cutoff=900,
        comp="x...............",
        chords="pad",
        melody="x...x.x.x...x...",
    ),
    "hiphop": Style(
        (85, 92),
        "minor",
        (((0, "m9"), (5, "m7"), (8, "M7"), (7, "7")), ((0, "m7"), (3, "M7"), (5, "m9"), (10, "7"))),
        kick="x..x......x.....",
        snare="....x.......x...",
        clap="....o.......o...",
        hat="x.x.x.xox.x.x.xo",
        open_hat="..............x.",
        bass="0..0......0..5..",
        bass_cutoff=350,
        comp="x.....x.........",
        chords="piano",
        melody="..x...x.x.......",
        swing=0.58,
        square_lead=True,
    ),
    "disco": Style(
        (113, 119),
        "minor",
        (((0, "m7"), (10, "M"), (8, "M7"), (7, "7")), ((0, "m7"), (5, "m7"), (10, "7"), (3, "M7"))),
        kick="x...x...x...x...",
        snare="....x.......x...",
        clap="....o.......o...",
        hat="x.o.x.o.x.o.x.o.",
        open_hat="..x...x...x...x.",
        bass="0.8.0.8.0.8.0.8.",
        bass_cutoff=1000,
        comp="x.....x...x.....",
        chords="strings",
        melody="x.....x.x.x.....",
        pump=0.25,
    ),
}
STYLE_IDS = {name: i for i, name in enumerate(STYLES)}
# the songs of assets/songs: name -> (style, seed, bpm, bars); the last one is never trained on
SONGS = {
    "house_1": ("house", 1, 124, 12),
    "funk_1": ("funk", 1, 104, 8),
    "pop_1": ("pop", 1, 96, 8),
    "hiphop_1": ("hiphop", 1, 88, 8),
    "disco_1": ("disco", 1, 116, 12),
    "disco_2": ("disco", 2, 118, 8),
}
HELD_OUT_SONG = "disco_2"
SONG_FOLDER = Path(__file__).resolve().parents[3] / "assets" / "songs"


@dataclass(frozen=True)
class Song:
    """audio f32 [S] mono at `rate` Hz; exact beats_s f32 [n] and downbeats_s f32 [n/4] in seconds; style_id indexes STYLES."""

    audio: np.ndarray
    rate: int
    beats_s: np.ndarray
    downbeats_s: np.ndarray
    tempo_bpm: float
    style_id: int
    style: str
    name: str


def compose(style: str, seed: int, tempo: float | None = None, bars: int = 8) -> Song:
    """Composes and renders a song.

    Args:
        style: a name in STYLES.
        seed: int; chooses key, chords, melody, fills and, when not given, the tempo.
        tempo: beats a minute, or None for one of the style's.
        bars: length in bars of four beats.

    Returns:
        `Song` of LEAD_IN + bars * 240 / tempo + TAIL seconds.

    Raises:
        UserError: unknown style, or no bars.
    """
    if style not in STYLES:
        raise UserError(f"unknown style '{style}'; expected one of {', '.join(STYLES)}")
    if bars < 1:
        raise UserError(f"a song needs at least 1 bar, got {bars}")
    rules, rng = STYLES[style], np.random.default_rng([STYLE_IDS[style], seed])
    drawn_tempo = float(rng.integers(rules.tempo[0], rules.tempo[1] + 1))
    score = Score(rules, rng, drawn_tempo if tempo is None else float(tempo), bars)
    beats = LEAD_IN + np.arange(bars * BEATS_PER_BAR) * 60 / score.tempo
    return Song(
        audio=score.render(),
        rate=RATE,
        beats_s=beats.astype(np.float32),
        downbeats_s=beats[::BEATS_PER_BAR].astype(np.float32),
        tempo_bpm=score.tempo,
        style_id=STYLE_IDS[style],
        style=style,
        name=f"{style}_{seed}",
    )


class Score:
    """One song's decisions (key, chords, melody) and its rendering. `rng` is drawn from in a fixed order."""

    def __init__(self, style: Style, rng: np.random.Generator, tempo: float, bars: int):
        self.style, self.rng, self.tempo, self.bars = style, rng, tempo, bars
        self.step = 60 / tempo / 4
        self.size = round((LEAD_IN + bars * STEPS * self.step + TAIL) * RATE)
        self.key = int(rng.integers(45, 57))  # A2 to G#3
        self.progression = style.progressions[rng.integers(len(style.progressions))]
        self.melody = self._melody()

    def render(self) -> np.ndarray:
        """All tracks, mixed and mastered: f32 [S]."""
        drums, kicks = self._drums()
        drums, bass, chords = synth.level(drums, -12), synth.level(self._bass(), -13.5), synth.level(self._chords(), -17)
        melody = synth.level(synth.echo(self._lead(), 3 * self.step, 0.35), -19)
        pumped = synth.duck(self.size, kicks, self.style.pump) if self.style.pump else 1.0
        room = synth.reverb(0.2 * drums + 0.8 * chords * pumped + 1.5 * melody, self.rng)
        mix = drums + (bass + chords) * pumped + melody + 0.3 * room
        mix *= np.clip((self.size / RATE - np.arange(self.size) / RATE) / TAIL, 0, 1)
        return synth.master(mix)

    def time(self, bar: int, step: int) -> float:
        """Seconds of a sixteenth; every second one is late by the swing."""
        late = (2 * self.style.swing - 1) * self.step if step % 2 else 0.0
        return LEAD_IN + (bar * STEPS + step) * self.step + late

    def hits(self, pattern: str, bar: int) -> list[tuple[int, float, float]]:
        """(step, seconds, loudness) of a pattern's hits in a bar."""
        return [(s, self.time(bar, s), 1.0 if c == "x" else 0.45) for s, c in enumerate(pattern) if c != "."]

    def _drums(self):
        """Drum track f32 [S] and the kick's times in seconds."""
        track, kicks, style, rng = np.zeros(self.size, np.float32), [], self.style, self.rng
        kit = (
            (style.snare, synth.snare(rng), 0.55),
            (style.clap, synth.clap(rng), 0.5),
            (style.hat, synth.hat(rng, 0.035), 0.16),
            (style.open_hat, synth.hat(rng, 0.14), 0.17),
        )
        kick, cymbal, fill = synth.kick(), synth.crash(rng), self._fill_sounds()
        for bar in range(self.bars):
            place = bar % BARS_PER_PHRASE
            fills = place == BARS_PER_PHRASE - 1
            stop = 12 if fills else STEPS  # the fill replaces the last beat's pattern
            if place == 0:
                synth.add(track, cymbal, self.time(bar, 0), 0.3)
            for step, at, loud in self.hits(style.kick, bar):
                if step < stop:
                    kicks.append(at)
                    synth.add(track, kick, at, loud * (1.0 if step else 1.15))
            for pattern, sound, gain in kit:
                for step, at, loud in self.hits(pattern, bar):
                    if step < stop or (pattern is style.snare and step == stop):
                        synth.add(track, sound, at, gain * loud * (1.2 if step % 4 == 0 else 1.0))
            if fills:
                for step, sound in zip(range(12, STEPS), fill):
                    synth.add(track, sound, self.time(bar, step), 0.55 + 0.05 * (step - 12))
        return track, np.array(kicks)

    def _fill_sounds(self):
        """The four sounds of the fill at the end of a phrase."""
        toms = [synth.tom(hertz) for hertz in (220, 180, 140, 105)]
        roll = [synth.snare(self.rng, tight=2.0)] * 4
        return toms if self.rng.random() < 0.5 else roll[:2] + toms[2:]

    def _chord(self, bar):
        """Root and notes of a bar's chord as MIDI numbers, the notes folded into one octave around middle C."""
        semitones, name = self.progression[bar % BARS_PER_PHRASE]
        root = self.key + semitones
        return root, tuple(sorted(60 + (root + i - 60 + 5) % 12 - 5 for i in CHORDS[name]))

    def _bass(self):
        track = np.zeros(self.size, np.float32)
        steps = [s for s, c in enumerate(self.style.bass) if c != "."]
        for bar in range(self.bars):
            root = 33 + (self._chord(bar)[0] - 33) % 12  # A1 to G#2
            for step, following in zip(steps, steps[1:] + [STEPS]):
                length = min(following - step, 6) * self.step * 0.92
                note = root + BASS_STEP[self.style.bass[step]]
                synth.add(track, synth.bass(note, length, self.style.bass_cutoff), self.time(bar, step), 1.1 if step == 0 else 0.9)
        return track

    def _chords(self):
        track, kind = np.zeros(self.size, np.float32), self.style.chords
        bar_seconds = STEPS * self.step
        for bar in range(self.bars):
            _, notes = self._chord(bar)
            if kind in ("pad", "strings", "stab"):
                synth.add(track, synth.pad(tuple(n + 12 * (kind == "strings") for n in notes), bar_seconds), self.time(bar, 0), 0.5)
            if kind == "pad":
                for step in range(0, STEPS, 2):  # broken chord, up and down
                    note = notes[(0, 1, 2, 1)[step // 2 % 4]] + 12
                    synth.add(track, synth.electric_piano((note,), 4 * self.step), self.time(bar, step), 0.3)
            for step, at, _ in self.hits(self.style.comp, bar):
                if kind == "piano":
                    synth.add(track, synth.electric_piano(notes, 6 * self.step), at, 0.6)
                elif kind != "pad":
                    bright = 4200 if kind in ("scratch", "strings") else 2200
                    short = 0.9 if kind in ("scratch", "strings") else 1.8
                    synth.add(track, synth.stab(notes, short * self.step, bright), at, 0.5 if step % 4 else 0.6)
        return track

    def _melody(self):
        """Four bars of (step, MIDI note), a motif with an answer: rhythm A A' A B, chord tones on the beat."""
        rng, scale = self.rng, [self.key % 12 + s for s in SCALES[self.style.scale]]
        ladder = [n for octave in (60, 72) for n in (octave + s for s in scale)]
        onsets = [s for s, c in enumerate(self.style.melody) if c == "x"]
        moves = rng.integers(-2, 3, len(onsets))
        bars, place = [], int(rng.integers(4, 8))
        for bar in range(BARS_PER_PHRASE):
            steps = onsets if bar < BARS_PER_PHRASE - 1 else onsets[:-1] + [onsets[-1] + 2]
            tones = {n % 12 for n in self._chord(bar)[1]}
            notes, position = [], place + (1 if bar == 1 else 0)
            for step, move in zip(steps, moves if bar < BARS_PER_PHRASE - 1 else -moves):
                position = int(np.clip(position + move, 1, len(ladder) - 2))
                nearest = sorted(range(len(ladder)), key=lambda i: (ladder[i] % 12 not in tones, abs(i - position)))[0]
                notes.append((step, ladder[nearest if step % 4 == 0 else position]))
            bars.append(notes)
        return bars

    def _lead(self):
        """Melody track: rests in the first phrase of a longer song, doubled an octave up in the last."""
        track = np.zeros(self.size, np.float32)
        phrases = -(-self.bars // BARS_PER_PHRASE)
        for bar in range(self.bars):
            phrase = bar // BARS_PER_PHRASE
            if phrase == 0 and phrases > 2:
                continue
            notes = self.melody[bar % BARS_PER_PHRASE]
            for (step, note), following in zip(notes, [s for s, _ in notes[1:]] + [STEPS]):
                length = min(following - step, 4) * self.step
                synth.add(track, synth.lead(note, length, self.style.square_lead), self.time(bar, step), 0.8)
                if phrase == phrases - 1 > 0:
                    synth.add(track, synth.lead(note + 12, length, True), self.time(bar, step), 0.3)
        return track


def save_song(song: Song, folder: str | Path) -> Path:
    """Writes `folder`/name.ogg (Vorbis) and name.json (name, style, tempo, exact beats); returns the ogg's path."""
    import soundfile

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{song.name}.ogg"
    with soundfile.SoundFile(path, "w", song.rate, 1, "VORBIS", format="OGG", compression_level=0.6) as file:
        for start in range(0, len(song.audio), song.rate):  # libsndfile overflows its stack on one long Vorbis write
            file.write(song.audio[start : start + song.rate])
    facts = {
        "name": song.name,
        "style": song.style,
        "tempo_bpm": song.tempo_bpm,
        "held_out": song.name == HELD_OUT_SONG,
        "beats_s": [round(float(b), 6) for b in song.beats_s],
        "downbeats_s": [round(float(b), 6) for b in song.downbeats_s],
    }
    path.with_suffix(".json").write_text(json.dumps(facts) + "\n")
    return path


def write_songs(folder: str | Path = SONG_FOLDER) -> list[Path]:
    """Composes and saves every song of SONGS: how assets/songs was made. Returns the ogg paths."""
    return [save_song(compose(*recipe), folder) for recipe in SONGS.values()]


def load_song(name: str, folder: str | Path = SONG_FOLDER) -> Song:
    """Reads a song written by `save_song`.

    Raises:
        UserError: the audio or its json is missing.
    """
    from champ_jax.audio.load import load_audio

    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise UserError(f"no song '{name}' in {folder}; expected {name}.ogg and {name}.json")
    facts = json.loads(path.read_text())
    audio, rate = load_audio(path.with_suffix(".ogg"))
    beats, downbeats = (np.array(facts[key], np.float32) for key in ("beats_s", "downbeats_s"))
    return Song(audio, rate, beats, downbeats, facts["tempo_bpm"], STYLE_IDS[facts["style"]], facts["style"], facts["name"])
