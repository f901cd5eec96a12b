import dataclasses
import tarfile

import numpy as np
import pytest

from vtp_eqx.data.tars import TarSource
from vtp_eqx.scenes.render import render
from vtp_eqx.scenes.tars import TarConfig, write_tar


CONFIG = TarConfig(num=10, per_shard=4, corrupt=0.5, seed=3)


def test_the_last_tar_has_what_is_left_and_the_same_bytes_each_time(tmp_path):
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    assert CONFIG.num_shards == 3
    for path in (one, two):
        write_tar(dataclasses.replace(CONFIG, corrupt=0.0), 2, path)
    assert one.read_bytes() == two.read_bytes()
    source, scenes = TarSource(one), render(CONFIG.scenes, np.arange(8, 10))
    assert len(source) == 2
    for row in range(2):
        np.testing.assert_array_equal(source[row]["image"], scenes.image[row])
        assert source[row]["caption"] == scenes.caption[row]


def files_of(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_some_examples_are_spoiled_and_the_others_as_they_were(tmp_path):
    whole = dataclasses.replace(CONFIG, per_shard=10, corrupt=0.0)
    spoiled = dataclasses.replace(whole, corrupt=0.5)
    validation = dataclasses.replace(whole, split="validation")
    found = []
    for name, config in (("a", whole), ("b", spoiled), ("c", validation)):
        write_tar(config, 0, tmp_path / name)
        found.append(files_of(tmp_path / name))
    good, some, others = found
    assert len(good) == 3 * 10
    assert not good.items() & others.items()
    changed = {key.partition(".")[0] for key in good if some.get(key) != good[key]}
    assert 2 <= len(changed) <= 8


@pytest.mark.parametrize("changes", [dict(num=0), dict(per_shard=0), dict(corrupt=2.0)])
def test_tars_of_nothing_or_of_too_many_spoiled_are_refused(changes):
    with pytest.raises(ValueError, match="a share may be spoiled; got"):
        dataclasses.replace(CONFIG, **changes)
