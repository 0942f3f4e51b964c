"""ArcFace's ONNX files (glintr100 of antelopev2, w600k_r50 of buffalo_l) as the state dict that they were exported from.

The exporter folds norms into the convolutions before them and numbers the results, so that names say nothing: the graph is
walked from its input to its output, and what stands at the place of a weight is that weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from champ_jax.checkpoint.tensors import LazyArray
from champ_jax.convert.onnx_file import Node, OnnxFile
from champ_jax.errors import UserError

STATISTICS = ("weight", "bias", "running_mean", "running_var")
EPSILON = 1e-5


def arcface_state(file: OnnxFile, source: str = "the ONNX file") -> dict[str, LazyArray]:
    """Name in insightface's PyTorch class to array, for `ARCFACE`; where norms are folded, convolutions have a bias.

    Raises UserError where the graph departs from an IResNet, naming the place.
    """
    walk = _Walk(file, source)
    if len(file.inputs) != 1:
        raise walk.error(f"it has the inputs {', '.join(file.inputs[:8]) or 'none'}, and a network on faces has one")
    value = walk.conv_norm(walk.consumers(file.inputs[0]), "conv1", "bn1", 3, 1)
    value = walk.prelu(value, "prelu")
    stage = block = 0
    for _ in file.nodes:
        norm, others = walk.block_start(value)
        if not others:
            walk.head(norm)
            return walk.state
        begins = others[0].op_type == "Conv"
        stage, block = (stage + 1, 0) if begins else (stage, block + 1)
        value = walk.block(norm, others[0], f"layer{stage}.{block}", 2 if begins else 1)
    raise walk.error("its graph runs in a circle")


class _Walk:
    """Where the weights met so far stand in the state dict, and the steps from one operation to the next."""

    def __init__(self, file: OnnxFile, source: str):
        self.file = file
        self.source = source
        self.state: dict[str, LazyArray] = {}
        self._readers: dict[str, list[Node]] = {}
        self._makers: dict[str, Node] = {}
        for node in file.nodes:
            for name in dict.fromkeys(node.inputs):
                self._readers.setdefault(name, []).append(node)
            self._makers |= dict.fromkeys(node.outputs, node)

    def error(self, what: str) -> UserError:
        """What is wrong with the file, as an error."""
        return UserError(f"{self.source} is not an ArcFace network that can be read (an IResNet exported from PyTorch): {what}.")

    def consumers(self, value: str) -> list[Node]:
        """The operations that read a value, through those that do nothing when a network is used."""
        for _ in self.file.nodes:
            nodes = self._readers.get(value, [])
            if len(nodes) != 1 or nodes[0].op_type not in ("Identity", "Dropout"):
                return nodes
            value = self.output(nodes[0])
        raise self.error("its graph runs in a circle")

    def output(self, node: Node) -> str:
        """The first value that an operation gives."""
        if not node.outputs:
            raise self.error(f"a {node.op_type[:40]} gives nothing")
        return node.outputs[0]

    def only(self, nodes: Sequence[Node], *kinds: str) -> Node:
        """The one operation there is, which must be of one of these kinds."""
        if len(nodes) != 1 or nodes[0].op_type not in kinds:
            found = ", ".join(node.op_type[:40] for node in nodes[:8]) or "nothing"
            after = list(self.state)[-1] if self.state else "its input"
            raise self.error(f"after {after} comes {found} where {' or '.join(kinds)} should be")
        return nodes[0]

    def block_start(self, value: str) -> tuple[Node, list[Node]]:
        """The norm that reads a value, and what else does: the shortcut of a block, or nothing at the end."""
        nodes = self.consumers(value)
        norms = [node for node in nodes if node.op_type == "BatchNormalization"]
        others = [node for node in nodes if node.op_type != "BatchNormalization"]
        norm = self.only(norms, "BatchNormalization")
        return norm, [self.only(others, "Conv", "Add")] if others else []

    def block(self, norm: Node, shortcut: Node, name: str, stride: int) -> str:
        """Takes one residual block; returns the value it gives."""
        value = self.norm(norm, f"{name}.bn1")
        value = self.conv_norm(self.consumers(value), f"{name}.conv1", f"{name}.bn2", 3, 1)
        value = self.prelu(value, f"{name}.prelu")
        value = self.conv_norm(self.consumers(value), f"{name}.conv2", f"{name}.bn3", 3, stride)
        total = self.only(self.consumers(value), "Add")
        if shortcut.op_type == "Conv":
            value = self.conv_norm([shortcut], f"{name}.downsample.0", f"{name}.downsample.1", 1, stride)
            shortcut = self.only(self.consumers(value), "Add")
        if shortcut is not total:
            raise self.error(f"the shortcut of {name} is added elsewhere")
        return self.output(total)

    def head(self, norm: Node) -> None:
        """Takes what follows the last block: norm, linear layer, norm."""
        flat = self.only(self.consumers(self.norm(norm, "bn2")), "Flatten", "Reshape")
        linear = self.only(self.consumers(self.output(flat)), "Gemm")
        self.attributes(linear, "fc", alpha=1.0, beta=1.0, transA=0)
        weight = self.weight(linear, 1, "fc.weight")
        if not linear.attributes.get("transB", 0) and len(weight.shape) == 2:
            self.state["fc.weight"] = weight.map(np.transpose, weight.shape[::-1])
        self.weight(linear, 2, "fc.bias")
        last = self.only(self.consumers(self.output(linear)), "BatchNormalization")
        if self.norm(last, "features") not in self.file.outputs:
            raise self.error("features is not what it gives")

    def conv_norm(self, nodes: Sequence[Node], conv: str, norm: str, window: int, stride: int) -> str:
        """Takes a convolution, and the norm behind it where it is not folded into it; returns the value they give."""
        node = self.only(nodes, "Conv")
        pads = [window // 2] * 4
        self.attributes(node, conv, strides=[stride] * 2, pads=pads, dilations=[1, 1], group=1, auto_pad="NOTSET")
        self.weight(node, 1, f"{conv}.weight")
        if len(node.inputs) > 2 and node.inputs[2]:
            self.weight(node, 2, f"{conv}.bias")
        value = self.output(node)
        after = self.consumers(value)
        return self.norm(after[0], norm) if [node.op_type for node in after] == ["BatchNormalization"] else value

    def norm(self, node: Node, name: str) -> str:
        """Takes a norm; returns the value it gives."""
        epsilon = node.attributes.get("epsilon", EPSILON)
        if not isinstance(epsilon, float) or abs(epsilon - EPSILON) > 1e-3 * EPSILON:
            raise self.error(f"{name} has the epsilon {epsilon}, and an IResNet has {EPSILON}")
        self.attributes(node, name, training_mode=0)
        for i, part in enumerate(STATISTICS):
            self.weight(node, i + 1, f"{name}.{part}")
        return self.output(node)

    def prelu(self, value: str, name: str) -> str:
        """Takes a PReLU; returns the value it gives."""
        node = self.only(self.consumers(value), "PRelu")
        slope = self.weight(node, 1, f"{name}.weight")
        self.state[f"{name}.weight"] = slope.map(np.ravel, (slope.size,))
        return self.output(node)

    def weight(self, node: Node, index: int, name: str) -> LazyArray:
        """Takes the input `index` of an operation, which must be a constant, under its name."""
        value = node.inputs[index] if len(node.inputs) > index else ""
        for _ in range(4):  # exporters name equal tensors once, and copies of them by Identity
            maker = self._makers.get(value)
            if value in self.file.initialisers or maker is None or maker.op_type != "Identity" or not maker.inputs:
                break
            value = maker.inputs[0]
        array = self.file.initialisers.get(value)
        if array is None and maker is not None and maker.op_type == "Constant":
            array = maker.attributes.get("value")
        if not isinstance(array, LazyArray):
            raise self.error(f"{name} is not in it: the {node.op_type} there reads {value[:80]!r}, which is computed or missing")
        if name in self.state:
            raise self.error(f"{name} is there twice")
        self.state[name] = array
        return array

    def attributes(self, node: Node, name: str, **expected) -> None:
        """Checks what an operation's attributes say; those it does not have are as ONNX's defaults."""
        defaults = {"pads": [0] * 4, "strides": [1, 1]}
        for key, value in expected.items():
            found = node.attributes.get(key, defaults.get(key, value))
            if found != value:
                raise self.error(f"{name} has {key} {str(found)[:80]}, and an IResNet has {value}")
