"""Where arrays live: the only file that names a mesh axis.

The batch is split over `DATA`; parameters are replicated, or split to save memory.
Inside `jax.shard_map` a function sees its local rows, and `DATA` names the axis to
reduce over.
"""

import equinox as eqx
import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import PyTree
import numpy as np


DATA = "data"
REPLICATED = P()
SPLIT = P(DATA)


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A one-axis mesh over the first `num_devices` devices (all where `None`)."""
    devices = jax.devices()
    if num_devices is not None and not 0 < num_devices <= len(devices):
        raise ValueError(
            f"A mesh takes devices that exist; got {num_devices} of {len(devices)}: "
            "ask for one to all of them, or set "
            "XLA_FLAGS=--xla_force_host_platform_device_count."
        )
    # Auto, because the default Explicit axes refuse the contrastive product.
    return Mesh(np.array(devices[:num_devices]), (DATA,), axis_types=(AxisType.Auto,))


def local_mesh(mesh: Mesh) -> Mesh:
    """This process's own devices of `mesh`, for what it does without the others."""
    own = [one for one in mesh.devices.flat if one.process_index == jax.process_index()]
    return Mesh(np.array(own), (DATA,), axis_types=(AxisType.Auto,))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """`tree` with every array copied to every device."""
    return eqx.filter_shard(tree, NamedSharding(mesh, REPLICATED))


def on_mesh(tree: PyTree, mesh: Mesh) -> PyTree:
    """`tree`, whose arrays are copied to every device unless they are on `mesh`."""
    lives = lambda leaf: getattr(leaf.sharding, "mesh", None) == mesh

    def place(leaf):
        return replicate(leaf, mesh) if eqx.is_array(leaf) and not lives(leaf) else leaf

    return jax.tree.map(place, tree)


def gather_to_host(tree: PyTree) -> PyTree:
    """`tree` with every array whole on one device of this process.

    Of arrays that are split over processes, all of them call this: it brings those
    together. What is computed with the result is of this process alone.
    """

    arrays, static = eqx.partition(tree, eqx.is_array)
    split = [a for a in jax.tree.leaves(arrays) if not a.is_fully_replicated]
    if split:
        everywhere = NamedSharding(split[0].sharding.mesh, REPLICATED)
        # One program: several with collectives at once may wait for one another.
        arrays = jax.jit(_unchanged, out_shardings=everywhere)(arrays)
        jax.block_until_ready(arrays)
    return eqx.combine(jax.tree.map(lambda a: a.addressable_data(0), arrays), static)


def fsdp_spec(shape: tuple[int, ...], num_devices: int) -> P:
    """How an array is split over the data axis to save memory: its longest axis is.

    Of the axes that `num_devices` divides; an array without one is copied.
    """
    divides = lambda length: length > 0 and length % num_devices == 0
    axes = [axis for axis, length in enumerate(shape) if divides(length)]
    if not axes:
        return REPLICATED
    longest = max(axes, key=lambda axis: shape[axis])
    return P(*[DATA if axis == longest else None for axis in range(len(shape))])


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """One global array per leaf, from this process's rows, split over the data axis."""
    size = mesh.devices.size
    sharding = NamedSharding(mesh, SPLIT)
    num_processes = len({device.process_index for device in mesh.devices.flat})

    def place(rows):
        total = rows.shape[0] * num_processes
        if total % size:
            raise ValueError(
                "The batch must divide evenly over the devices; got "
                f"{total} rows on {size} devices: change `batch_size`."
            )
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows))

    return jax.tree.map(place, batch)


def gather_texts(text: str) -> list[str]:
    """The text of every process, in their order; all of them call this."""
    if jax.process_count() == 1:
        return [text]
    gather, content = multihost_utils.process_allgather, text.encode()
    size = int(np.max(gather(np.int32(len(content)))))
    rows = np.asarray(gather(np.frombuffer(content.ljust(size), np.uint8)))
    return [row.tobytes().decode().rstrip() for row in rows]


def _unchanged(tree: PyTree) -> PyTree:
    return tree
