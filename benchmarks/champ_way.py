"""Parts of the network done as CHAMP does them, to put in the place of ours while a benchmark traces the plain way."""

import contextlib
from collections.abc import Iterable, Iterator
from unittest import mock

from champ_jax.models.unet import UNet
from champ_jax.nn.blocks import BlockReference, SpatialTransformer


def _unprojected(self, block, name, features):
    """UNet._project that leaves the tokens for the attention to project."""
    tokens = features[name].tokens.astype(self.compute)
    return BlockReference(tokens, tokens, None, features[name].moments)


def _queried(self, hidden, read):
    """SpatialTransformer._cross with queries, a key and a softmax over it."""
    batch, frames, tokens, width = hidden.shape
    return self.attn2(self.norm2(hidden).reshape(batch, frames * tokens, width), read.context).reshape(hidden.shape)


UNPROJECTED = (UNet, "_project", _unprojected)
ONE_TOKEN = (SpatialTransformer, "_cross", _queried)


@contextlib.contextmanager
def plainly(replacements: Iterable[tuple[object, str, object]]) -> Iterator[None]:
    """While tracing inside, each (owner, name, what it is there) is in its place."""
    with contextlib.ExitStack() as stack:
        for owner, name, plain in replacements:
            stack.enter_context(mock.patch.object(owner, name, plain))
        yield
