import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.mesh import (
    DATA,
    data_mesh,
    fsdp_spec,
    gather_to_host,
    on_mesh,
    replicate,
    REPLICATED,
    shard_batch,
    SPLIT,
)


def test_a_mesh_takes_all_devices_or_as_many_as_asked():
    assert data_mesh().devices.size == jax.device_count() == 8
    mesh = data_mesh(2)
    assert mesh.devices.size == 2
    assert mesh.axis_names == (DATA,)


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="got 9 of 8"):
        data_mesh(9)
    for number in (0, -1):
        with pytest.raises(ValueError, match=rf"got {number} of 8: ask for one to all"):
            data_mesh(number)


def test_replicated_arrays_are_whole_on_every_device():
    tree = replicate({"weight": jnp.arange(6.0), "name": "a"}, data_mesh(4))
    assert tree["name"] == "a"
    assert tree["weight"].sharding.is_fully_replicated
    assert len(tree["weight"].addressable_shards) == 4


def test_what_is_on_a_mesh_stays_where_it_is():
    mesh = data_mesh(4)
    rows, loose = shard_batch(np.arange(8), mesh), jnp.arange(3)
    tree = on_mesh({"rows": rows, "loose": loose, "name": "a"}, mesh)
    assert tree["rows"] is rows
    assert tree["loose"].sharding.is_fully_replicated
    assert len(tree["loose"].addressable_shards) == 4
    assert tree["name"] == "a"
    # Another mesh is another place.
    assert len(on_mesh(loose, data_mesh(2)).addressable_shards) == 2


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 8, 16), (None, None, DATA)),
        ((8, 3), (DATA, None)),
        ((12, 8, 7), (DATA, None, None)),
        ((3, 5), ()),
        ((), ()),
    ],
)
def test_the_longest_axis_that_divides_is_shared(shape, expected):
    assert tuple(fsdp_spec(shape, 4)) == expected


def test_keys_can_be_replicated():
    key = replicate(jr.key(3), data_mesh(2))
    assert jnp.array_equal(jr.key_data(key), jr.key_data(jr.key(3)))


def test_what_is_brought_here_is_whole_on_one_device():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    mesh = data_mesh(4)
    tree = {
        "rows": shard_batch(rows, mesh),
        "mean": replicate(jnp.ones(2), mesh),
        "name": 3,
    }
    found = gather_to_host(tree)
    assert found["rows"].devices() == found["mean"].devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(found["rows"], rows)
    assert found["name"] == 3


def test_a_split_batch_gives_every_device_its_rows_in_order():
    batch = shard_batch({"image": np.arange(8), "caption": None}, data_mesh(4))
    assert batch["caption"] is None
    shards = sorted(
        batch["image"].addressable_shards, key=lambda shard: shard.device.id
    )
    rows = [shard.data.tolist() for shard in shards]
    assert rows == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="got 6 rows on 4 devices"):
        shard_batch(np.zeros((6, 2)), data_mesh(4))


def test_a_replicated_result_needs_a_reduction():
    # The check that makes a forgotten collective an error, not a wrong number.
    forgotten = jax.shard_map(
        jnp.mean, mesh=data_mesh(2), in_specs=SPLIT, out_specs=REPLICATED
    )
    with pytest.raises(ValueError, match="out_specs"):
        forgotten(jnp.zeros(4))
