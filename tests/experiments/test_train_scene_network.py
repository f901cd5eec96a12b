from pathlib import Path
import subprocess
import sys

import pytest

from vtp_eqx.frozen.scene_network import (
    HEADS,
    load_scene_network,
    scene_network_hash,
)


SCRIPT = Path(__file__).parents[2] / "experiments" / "train_scene_network.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name_of"), [("attributes", "shape"), ("class", "class")]
)
def test_the_same_command_writes_the_same_bytes(target, name_of, tmp_path):
    for name in ("one", "two"):
        printed = subprocess.run(
            [sys.executable, SCRIPT, "--folder", tmp_path / name, "--smoke",
             "--target", target],
            check=True,
            capture_output=True,
            text=True,
            cwd=SCRIPT.parents[1],
        ).stdout  # fmt: skip
        network = load_scene_network(tmp_path / name)
        assert network.config.image_size == 32
        assert f"sha256 {scene_network_hash(tmp_path / name)}" in printed
        assert f"\n{name_of} " in printed
        assert network.config.heads == HEADS[target]
    one, two = (scene_network_hash(tmp_path / name) for name in ("one", "two"))
    assert one == two
