"""Row 28 of docs/reliability.md: a device that holds other numbers than its neighbours is found."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = """
import os
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from champ_jax.checkpoint.integrity import Diverged, fingerprints
from champ_jax.parallel.mesh import make_mesh

mesh = make_mesh({"slice": 2, "replica": 4})
value = np.arange(64, dtype=np.float32).reshape(8, 8)
whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("inner"))
tree = {"whole": jax.device_put(value, whole), "parts": jax.device_put(value, split)}
tree["half"] = jax.device_put(value.astype(jnp.bfloat16), whole)
both = {**tree, "both": jax.device_put(value, NamedSharding(mesh, P("slice", "inner")))}
both["one"] = jax.device_put(value, NamedSharding(mesh, P(("slice", "inner"))))
good = fingerprints(both)
assert good["both"] == good["one"] == good["whole"] == good["parts"]
good = fingerprints(tree)
assert good == fingerprints(jax.tree.map(lambda x: jax.device_put(np.asarray(x), jax.devices()[0]), tree))

def with_a_flip(array, device):
    parts = [np.array(shard.data) for shard in array.addressable_shards]
    parts[device].view(np.uint8)[0, 0] ^= 1
    buffers = [jax.device_put(part, shard.device) for part, shard in zip(parts, array.addressable_shards)]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, buffers)

for name in tree:
    for device in (0, 3, 7):
        try:
            fingerprints({**tree, name: with_a_flip(tree[name], device)})
        except Diverged as error:
            assert str(error).startswith(name) and error.exit_code == 75, error
        else:
            raise AssertionError(f"{name} on device {device} passed")
print("all found")
"""


def test_a_flipped_bit_on_one_device_is_found():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "all found" in done.stdout, done.stderr[-3000:]
