"""The network that reads samples of emoji, trained in a process of its own.

    python -m vtp_eqx.study.emoji_network FOLDER

`FOLDER` has `emoji_data.json` and the arrays of both splits. One machine writes the
same bytes on one thread of a processor, as `EmojiData.prepare` starts it.
"""

import dataclasses
import json
from pathlib import Path
import sys

import numpy as np

from vtp_eqx.config import from_dict
from vtp_eqx.evaluation.scene_metrics import attribute_agreement, read_scenes
from vtp_eqx.frozen.scene_network import save_scene_network
from vtp_eqx.runs.train_scene_network import train_scene_network
from vtp_eqx.study.emoji_data import CONFIG, EmojiData, NETWORK


def main(folder: Path) -> None:
    """Trains the network, and writes its weights with their held-out accuracy."""
    data = from_dict(EmojiData, json.loads((folder / CONFIG).read_text()))
    train, test = (data.load(folder, split) for split in ("train", "validation"))
    config = data.network_training
    asked, answers = (
        {name: split[name].astype(np.int32) for name, _ in config.network.heads}
        for split in (train, test)
    )
    network = train_scene_network(config, train["image"], asked)
    accuracy = attribute_agreement(read_scenes(network, test["image"]), answers)
    trained_on = dataclasses.asdict(config) | {"digest": data.digest}
    save_scene_network(network, folder / NETWORK, accuracy, trained_on)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
