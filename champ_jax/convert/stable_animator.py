"""StableAnimator's own parts: the network to face tokens (face_encoder.pth), and the adapter in its UNet's attentions."""

from __future__ import annotations

import re
from typing import Any

from champ_jax.convert.formats import Component, Config, Format, Shapes, one_component
from champ_jax.convert.mapping import Layout, abstract
from champ_jax.convert.unet import LEVELS
from champ_jax.errors import UserError
from champ_jax.models.face_id import FaceID, FaceIDConfig, IDAdapter, IDAdapterConfig

HEAD_DIM = 64

FACE_LAYOUT = Layout(
    rules=(
        (r"^proj_in/", "proj.0/"),
        (r"^proj_out/", "proj.2/"),
        (r"^image_in/", "fusion_model.proj_in/"),
        (r"^latents_out/", "fusion_model.proj_out/"),
        (r"^norm_out/", "fusion_model.norm_out/"),
        (r"^layer_(\d+)/norm_ff/", r"fusion_model.layers.\1.1.0/"),
        (r"^layer_(\d+)/ff_in/", r"fusion_model.layers.\1.1.1/"),
        (r"^layer_(\d+)/ff_out/", r"fusion_model.layers.\1.1.3/"),
        (r"^layer_(\d+)/", r"fusion_model.layers.\1.0/"),
        (r"/norm_image/", "/norm1/"),
        (r"/norm_latents/", "/norm2/"),
    )
)
ADAPTER_LAYOUT = Layout(
    rules=(
        *LEVELS,
        (r"/attention_(\d+)/attn2/", r"/attentions.\1.transformer_blocks.0.attn2.processor/"),
    )
)
PLACE = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|(mid)_block)\.attentions\.(\d+)\.transformer_blocks\.0\.attn2\.processor\.id_to_[kv]\.weight"
)


def face_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"face_id": ...}, from the shapes; heads are 64 wide, as in all of StableAnimator's."""
    try:
        embedding = shapes["proj.0.weight"][1]
        width, clip_width = shapes["fusion_model.proj_in.weight"]
        inner = shapes["fusion_model.layers.0.0.to_q.weight"][0]
        values = {
            "width": width,
            "embedding": embedding,
            "clip_width": clip_width,
            "tokens": shapes["proj.2.weight"][0] // max(width, 1),
            "layers": sum(bool(re.fullmatch(r"fusion_model\.layers\.\d+\.0\.to_q\.weight", name)) for name in shapes),
            "heads": inner // HEAD_DIM,
            "head_dim": HEAD_DIM,
            "ff_mult": shapes["fusion_model.layers.0.1.1.weight"][0] // max(width, 1),
        }
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"StableAnimator's face encoder needs {error}: this file has no such network") from error
    return {"face_id": values}


def adapter_geometry(shapes: Shapes, config: Config) -> dict[str, Any]:
    """{"id_adapter": {"blocks": {place in our UNet: width}, "context": ...}}, from the names and shapes."""
    blocks, contexts = {}, set()
    for name, shape in sorted(shapes.items()):
        found = PLACE.fullmatch(name)
        if found and len(shape) == 2:
            level = "mid" if found[3] else f"{found[1]}_{found[2]}"
            blocks[f"{level}/attention_{found[4]}"] = shape[0]
            contexts.add(shape[1])
    if not contexts:
        raise UserError(
            "it has no projections of StableAnimator's adapter, ...attentions.0.transformer_blocks.0.attn2.processor.id_to_k.weight."
        )
    if len(contexts) > 1:
        raise UserError(f"the adapter's projections read face tokens of the widths {sorted(contexts)}, and there is one kind of them.")
    return {"id_adapter": {"blocks": blocks, "context": contexts.pop()}}


def _adapter(config: Config) -> dict[str, Component]:
    own = IDAdapterConfig(tuple(config["id_adapter"]["blocks"].items()), config["id_adapter"]["context"])
    return {"id_adapter": Component(abstract(IDAdapter, own), ADAPTER_LAYOUT)}


FACE_ID = Format(
    title="StableAnimator's face encoder",
    signature=("proj.0.weight", "proj.2.weight", "fusion_model.proj_in.weight", "fusion_model.layers.0.0.to_kv.weight"),
    geometry=face_geometry,
    components=one_component("face_id", FaceID, FaceIDConfig, FACE_LAYOUT),
)
ID_ADAPTER = Format(
    title="StableAnimator's identity adapter",
    signature=("*.attn2.processor.id_to_k.weight", "*.attn2.processor.id_to_v.weight"),
    foreign=("conv_in.weight",),
    geometry=adapter_geometry,
    components=_adapter,
)
