"""Videos as streams, in blocks at the same times."""

from champ_jax.evaluate.clips import Blocks, frames_of
from tests.evaluate.films import film


def test_blocks_end_with_the_shortest_and_say_which_is_longer():
    video = film(0, 10)
    blocks = Blocks(frames_of(video), None, frames_of(video[:9]), size=4)
    sizes = [tuple(None if part is None else len(part) for part in block) for block in blocks]
    assert sizes == [(4, None, 4), (4, None, 4), (1, None, 1)] and blocks.longer == (0,)
    even = Blocks(frames_of(video), frames_of(video), size=5)
    assert len(list(even)) == 2 and even.longer == ()
