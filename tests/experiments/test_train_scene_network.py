from pathlib import Path
import subprocess
import sys

import pytest

from vtp_eqx.frozen.scene_network import load_scene_network, scene_network_hash


SCRIPT = Path(__file__).parents[2] / "experiments" / "train_scene_network.py"


@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        printed = subprocess.run(
            [sys.executable, SCRIPT, "--folder", tmp_path / name, "--smoke"],
            check=True,
            capture_output=True,
            text=True,
            cwd=SCRIPT.parents[1],
        ).stdout
        network = load_scene_network(tmp_path / name)
        assert network.config.image_size == 32
        assert f"sha256 {scene_network_hash(tmp_path / name)}" in printed
        assert "shape " in printed
    one, two = (scene_network_hash(tmp_path / name) for name in ("one", "two"))
    assert one == two
