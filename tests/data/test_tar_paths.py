import pytest

from vtp_eqx.data.tar_paths import expand


def test_patterns_name_tars(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for shard in range(3):
        (shards / f"{shard:05d}.tar").touch()
    names = lambda tars: [path.name for path in expand(tars)]
    assert names(shards) == ["00000.tar", "00001.tar", "00002.tar"]
    assert names(shards / "{00001..00003}.tar") == [
        "00001.tar",
        "00002.tar",
        "00003.tar",
    ]
    assert names(str(shards / "*{1,0}.tar")) == ["00001.tar", "00000.tar"]
    assert names(shards / "0000[12].tar") == ["00001.tar", "00002.tar"]
    assert [str(path) for path in expand("{a,b}/{8..10}.tar")] == [
        f"{folder}/{number}.tar" for folder in "ab" for number in (8, 9, 10)
    ]
    with pytest.raises(ValueError, match="numbers or words"):
        expand("{3..1}.tar")
    for path in (shards / "none.tar", shards / "x*.tar", shards / ".."):
        with pytest.raises(ValueError, match="check the path"):
            expand(path)
