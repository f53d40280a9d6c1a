"""Run by test_devices.py with eight simulated devices: what several devices do, as one line of JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ntkbook as nb

net = nb.serial(nb.Dense(8, jnp.asarray(1.4), 0.1), nb.Relu(), nb.Dense(8), nb.Relu(), nb.Dense(1))
x = np.random.default_rng(0).normal(size=(48, 20)).astype("float32")
mesh = jax.make_mesh((4, 2), ("rows", "more"))
across = jax.make_mesh((8,), ("rows",))
spread_x = jax.device_put(x, NamedSharding(across, P("rows")))
exact = nb.kernel(net, x.astype(float)).ntk  # float64
one = nb.gram(net, x, tile=8)
equal = lambda a, b: bool((np.asarray(a) == np.asarray(b)).all())
shown = lambda k: [
    repr(tuple(k.sharding.spec)),
    len({shard.device for shard in k.addressable_shards}),
    k.sharding.shard_shape(k.shape),
]
gap = lambda k: float(abs(np.asarray(k, float) - exact).max())

on_mesh = nb.gram(net, x, tile=8, mesh=mesh)
of_spread = nb.gram(net, spread_x, tile=8)
nngp, ntk = nb.gram(net, spread_x, x[:7], get=("nngp", "ntk"), tile=8)
odd = nb.gram(net, x[:45], mesh=mesh)
parts = jax.shard_map(lambda a, b: nb.ntk(net, a, b), mesh=across, in_specs=(P("rows"), P()), out_specs=P("rows"))
stored = nb.gram(net, x, tile=8, mesh=mesh, store=sys.argv[1] + "/kernel")
solved = nb.kernel_regression(on_mesh, x[:, 0], noise=0.1, tolerance=1e-5, progress=False)
dense = np.linalg.solve(np.asarray(one, float) + 0.1 * np.eye(48), x[:, 0])
facts = {
    "regression": float(abs(solved.coefficients - dense).max() / abs(dense).max()),
    "store": [equal(stored, one), equal(stored @ np.eye(48), one), shown(stored.on_mesh(mesh))],
    "mesh": shown(on_mesh),
    "mesh is one device": equal(on_mesh, one) and equal(on_mesh, np.asarray(on_mesh).T),
    "spread": shown(of_spread),
    "spread is one device": equal(of_spread, one),
    "across": equal(ntk, nb.gram(net, x, x[:7], tile=8)) and equal(nngp, nb.gram(net, x, x[:7], get="nngp", tile=8)),
    "odd": shown(odd),
    "odd gap": float(abs(odd - one[:45, :45]).max()),
    "few points": gap(nb.ntk(net, spread_x)),
    "shard_map": gap(parts(spread_x, x)),
}
print(json.dumps(facts))
