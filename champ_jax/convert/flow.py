"""RAFT, as princeton-vl stores it: optical flow for warp errors."""

from __future__ import annotations

from champ_jax.convert.formats import Format, one_component
from champ_jax.convert.mapping import COUNTERS, STATISTICS, Layout
from champ_jax.models.raft import RAFT as RAFTModel
from champ_jax.models.raft import RAFTConfig

LAYOUT = Layout(
    rules=(
        (r"^features/", "fnet/"),
        (r"^context/", "cnet/"),
        (r"/unit_in/(conv|norm)/", r"/\g<1>1/"),
        (r"/conv_out/", "/conv2/"),
        (r"/layer_(\d)_(\d)/", r"/layer\1.\2/"),
        (r"/unit_(\d)/(conv|norm)/", r"/\g<2>\1/"),
        (r"/shortcut/conv/", "/downsample.0/"),
        (r"/shortcut/norm/", "/norm3/"),
        (r"^motion/corr_(\d)/", r"update_block/encoder/convc\1/"),
        (r"^motion/flow_(\d)/", r"update_block/encoder/convf\1/"),
        (r"^motion/out/", "update_block/encoder/conv/"),
        (r"^gru/([zrq])_(\d)/", r"update_block/gru/conv\1\2/"),
        (r"^flow_(\d)/", r"update_block/flow_head/conv\1/"),
        (r"^mask_1/", "update_block/mask.0/"),
        (r"^mask_2/", "update_block/mask.2/"),
        *STATISTICS,
    ),
    kept=COUNTERS | {"cnet.*.downsample.1.*": "the same module as norm3, stored twice"},
)


RAFT = Format(
    title="RAFT (large)",
    signature=("fnet.conv1.weight", "cnet.norm1.running_mean", "update_block.gru.convz1.weight", "update_block.mask.2.weight"),
    geometry=lambda shapes, config: {"raft": {"levels": 4, "radius": 4}},
    components=one_component("raft", RAFTModel, RAFTConfig, LAYOUT),
)
