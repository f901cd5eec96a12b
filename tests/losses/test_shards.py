import jax
import jax.numpy as jnp
import numpy as np

from vtp_eqx.losses.shards import global_rows
from vtp_eqx.mesh import DATA, data_mesh, SPLIT


def test_global_rows_count_on_from_shard_to_shard():
    np.testing.assert_array_equal(global_rows(3, None), [0, 1, 2])
    rows = jax.shard_map(
        lambda batch: global_rows(len(batch), DATA),
        mesh=data_mesh(4),
        in_specs=SPLIT,
        out_specs=SPLIT,
    )
    np.testing.assert_array_equal(rows(jnp.zeros(8)), np.arange(8))
