"""Studies, protocols and evaluation during training give one number for one thing."""

import numpy as np
from PIL import Image
import pytest

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.evaluation import in_training
from vtp_eqx.evaluation.extract import ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.in_training import evaluate_tokenizer, LabeledImages
from vtp_eqx.evaluation.linear_probe import PENALTIES, probe
from vtp_eqx.evaluation.networks import scene_features
from vtp_eqx.evaluation.reconstruction import reconstruction
from vtp_eqx.evaluation.zero_shot import zero_shot
from vtp_eqx.mesh import data_mesh
from vtp_eqx.scenes.captions import SHAPES
from vtp_eqx.scenes.render import render, SceneConfig
from vtp_eqx.study.dataset import Dataset, Split
from vtp_eqx.study.measure import measure_reconstructions, probe_numbers


def split(rows):
    scenes = render(SceneConfig(), rows)
    return Split(scenes.image, scenes.caption, None, scenes.label, scenes.attributes)


@pytest.fixture(scope="module")
def words():
    return train_tokenizer([*SHAPES, "a", "the"], 280)


@pytest.fixture(scope="module")
def data(words):
    return Dataset(split(np.arange(48)), split(np.arange(48, 96)), words)


def in_class_folders(part, folder):
    """The same images as files, in a folder for each shape."""
    for row, (image, shape) in enumerate(
        zip(part.image, part.attributes["shape"], strict=True)
    ):
        path = folder / str(shape) / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return Images(source=FolderSource(folder), crop=CenterCrop(32))


def test_one_number_for_one_thing(tokenizer, words, data, tmp_path, monkeypatch):
    train, test = (
        in_class_folders(part, tmp_path / name)
        for name, part in (("train", data.train), ("test", data.validation))
    )
    place = ExtractConfig(folder=tmp_path, batch_size=16, mesh=data_mesh(2))
    network, templates = scene_features(), ["a {}", "the {}"]
    cached = {
        **reconstruction(tokenizer, test, network, place),
        **probe(tokenizer, train, test, place),
        **zero_shot(tokenizer, words, SHAPES, templates, test, place),
    }
    study = {
        **measure_reconstructions(network, tokenizer, data)[0],
        **probe_numbers(
            tokenizer, data, np.zeros((48, 4, 4, 8), np.float32), ["shape"]
        ),
    }
    ids = [words.encode([t.format(name) for t in templates], 8) for name in SHAPES]
    monkeypatch.setattr(in_training, "PENALTIES", PENALTIES)
    training = evaluate_tokenizer(
        tokenizer,
        *(
            LabeledImages(part.image, part.attributes["shape"])
            for part in (data.train, data.validation)
        ),
        np.stack(ids),
    )
    # Of other batches, devices and orders: rounding differs, and nothing else.
    assert cached["PSNR"] == pytest.approx(study["PSNR"], rel=1e-6)
    assert cached["SSIM"] == pytest.approx(study["SSIM"], rel=1e-6)
    assert cached["rFD-scenes"] == pytest.approx(study["rFD-scenes"], rel=1e-4)
    assert training["psnr"] == pytest.approx(study["PSNR"], rel=1e-6)
    assert cached["zero-shot top-1"] == training["zero_shot"]
    assert study["probe features shape"] == training["probe"]
