import dataclasses
import json

import equinox as eqx
import jax.random as jr
import numpy as np
from PIL import Image
import pytest

from experiments import gallery
from experiments.gallery import main, Options
from vtp_eqx.config import as_json
from vtp_eqx.evaluation.smoke import TOKENIZER
from vtp_eqx.scenes.render import render, SceneConfig, write_folders
from vtp_eqx.study.recipe import run, SMOKE
from vtp_eqx.study.run_spec import RunPaths, saved_tokenizers
from vtp_eqx.tokenizer import load, save, Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    config = dataclasses.replace(TOKENIZER, text=None)
    return eqx.filter_jit(Tokenizer)(config, key=jr.key(0))


@pytest.fixture
def runs(tokenizer, tmp_path):
    """Runs of a study: AE of two settings and seeds, VTP, and one not finished."""
    paths = RunPaths(tmp_path / "runs")
    for method, setting, seed, is_finished in (
        ("AE", "16", 1, True), ("AE", "16", 0, True), ("AE", "8", 1, True),
        ("VTP", "16", 0, True), ("AE smooth", "16", 0, False),
    ):  # fmt: skip
        spec = run(SMOKE, method, setting, seed, latent_width=int(setting))
        folder = paths.result(spec)
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(as_json(spec))
        if is_finished:
            (folder / "result.json").write_text(json.dumps({}))
        save(tokenizer, paths.decoder(spec) / "tokenizer")
    return paths


def test_tokenizers_of_studies_are_found_by_their_methods(runs):
    found = saved_tokenizers(runs, ["VTP", "AE"], ["16"])
    assert [*found] == ["VTP, 16, seed 0", "AE, 16, seed 0"]
    assert {*saved_tokenizers(runs, ["AE"])} == {"AE, 16, seed 0", "AE, 8, seed 1"}
    assert saved_tokenizers(runs, []) == {}
    for folder in found.values():
        assert load(folder).config.image_size == 32
    with pytest.raises(ValueError, match=r"^`methods` \['AE smooth'\] .*'AE', 'VTP'"):
        saved_tokenizers(runs, ["AE smooth"])
    with pytest.raises(ValueError, match=r"^`settings` \['64'\] must be of finished"):
        saved_tokenizers(runs, ["AE"], ["64"])


def test_a_gallery_is_of_folders_and_methods_on_any_images(
    runs, tokenizer, tmp_path, monkeypatch
):
    drawn = {}
    monkeypatch.setattr(
        gallery, "save_gallery", lambda columns, _: drawn.update(columns)
    )
    save(tokenizer, tmp_path / "mine")
    scenes = SceneConfig()
    write_folders(render(scenes, scenes.train_indices[:8]), tmp_path / "images")
    options = Options(
        tokenizers=(f"ours={tmp_path / 'mine'}", f"{tmp_path / 'mine'}"),
        runs=runs.root, methods=("VTP",), data=f"{tmp_path / 'images'}", num_images=3,
        out=tmp_path / "gallery.png",
    )  # fmt: skip
    main(options)
    assert [*drawn] == ["ours", f"{tmp_path / 'mine'}", "VTP, 16, seed 0"]
    assert {pair.original.shape for pair in drawn.values()} == {(3, 32, 32, 3)}
    main(dataclasses.replace(options, data=None, num_images=2))
    assert {pair.original.shape for pair in drawn.values()} == {(2, 32, 32, 3)}
    monkeypatch.undo()
    main(options)
    with Image.open(options.out) as picture:
        assert np.asarray(picture).std() > 0


def test_a_gallery_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^`tokenizers` and `methods` \(none\)"):
        main(Options(runs=tmp_path))
