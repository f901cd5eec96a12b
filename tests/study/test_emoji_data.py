"""Emoji as the data of a study: what is prepared, what judges, and what is found."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path
import re
import shutil
import subprocess

import numpy as np
import pytest

from experiments import compare_emoji
from experiments.compare_emoji import Options
from vtp_eqx.config import as_json, from_dict, short_hash
from vtp_eqx.data.emoji_tars import EmojiConfig, RECORD, write_made_up_emoji
from vtp_eqx.data.tars import TarSource
from vtp_eqx.evaluation.scene_metrics import read_scenes
from vtp_eqx.frozen.scene_network import scene_network_hash, SceneNetworkConfig
from vtp_eqx.runs.pretrain import array_batches
from vtp_eqx.runs.train_scene_network import SceneNetworkTraining
from vtp_eqx.study.dataset import load_dataset, prepare
from vtp_eqx.study.emoji_data import EmojiData, NETWORK, train_network
from vtp_eqx.study.figure import frontier_figure
from vtp_eqx.study.recipe import run
from vtp_eqx.study.report import Study, write_report
from vtp_eqx.study.run_spec import RunPaths, RunSpec, spec_hash
from vtp_eqx.study.stages import execute_run


TINY = SceneNetworkTraining(
    network=SceneNetworkConfig(
        image_size=16, widths=(8, 8), blocks=(1, 0), squeezed_width=4, feature_width=16,
        heads=(("class", 4), ("group", 1)),
    ),
    num_epochs=1, batch_size=60, warmup_steps=1, shift=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return write_made_up_emoji(tmp_path_factory.mktemp("tars"), EmojiConfig(size=16))


@pytest.fixture(scope="module")
def data(tars):
    return dataclasses.replace(EmojiData.of(tars), network_training=TINY)


def plan(scale, seeds, data, **changes):
    recipe = compare_emoji.recipe_for(Options(scale=scale, **changes), data)
    return compare_emoji.plan(scale, seeds, recipe=recipe)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """The prepared data, with a network that this process trained."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:

        def train(command, env):
            train_network(Path(command[-1]))
            return subprocess.CompletedProcess(command, 0)

        patch.setattr("vtp_eqx.study.emoji_data.subprocess.run", train)
        prepare(data, folder, print)
    return folder


@pytest.fixture(scope="module")
def dataset(data, folder):
    text = compare_emoji.recipe_for(Options(smoke=True), data).text
    return load_dataset(data, text, folder)


def name_of(caption):
    """The name in a caption, whoever drew it."""
    [name] = re.findall(r"disc \d+(?:, [a-z-]+(?: and [a-z-]+)? skin)?", caption)
    return name


def test_no_batch_of_a_study_has_two_versions_of_a_name(data, dataset):
    spec = run(compare_emoji.recipe_for(Options(smoke=True), data), "VTP", "x", 0)
    arrays = {"image": dataset.train.image, "caption": dataset.train.caption_ids}
    names = np.array([name_of(caption) for caption in dataset.train.caption])
    batches = array_batches(spec.pretrain, arrays, parts=dataset.parts)
    seen = set()
    for number, batch in zip(range(40), batches(0), strict=False):
        rows = batches.rows(number)
        assert len({*names[rows]}) == len(rows) == spec.pretrain.batch_size
        np.testing.assert_array_equal(batch.image, dataset.train.image[rows])
        np.testing.assert_array_equal(batch.caption, dataset.train.caption_ids[rows])
        seen |= {*rows}
    assert len(seen) > 0.9 * len(names)
    # Without parts some batch has two: the rule is not kept by chance.
    free = array_batches(spec.pretrain, arrays)
    assert any(len({*names[free.rows(n)]}) < len(free.rows(n)) for n in range(10))
    # A run that was cut off goes on with the batches it would have seen.
    [later] = itertools.islice(batches(7), 1)
    np.testing.assert_array_equal(later.image, arrays["image"][batches.rows(7)])


def test_what_is_loaded_is_what_the_tars_hold(data, tars, folder, dataset):
    source = TarSource(tars / "train")
    assert dataset.parts == tuple(source.shard_sizes)
    assert sum(dataset.parts) == len(dataset.train.image) == data.num_train
    start = 0
    for size in dataset.parts:
        rows = slice(start, start + size)
        found = zip(dataset.train.caption[rows], dataset.train.label[rows], strict=True)
        held = [source[row] for row in range(start, start + size)]
        assert sorted(found) == sorted((of["caption"], of["label"]) for of in held)
        start += size
    first = source[0]
    row = dataset.train.caption.index(first["caption"])
    np.testing.assert_array_equal(dataset.train.image[row], first["image"])
    assert [*dataset.prompts] == ["class"]
    assert dataset.prompts["class"][2][0] == "disc 2, a Google emoji"


def test_the_network_is_the_same_however_often_it_is_trained(data, folder, dataset):
    first = scene_network_hash(folder / NETWORK)
    assert data.network_hash(folder) == first
    train_network(folder)
    assert scene_network_hash(folder / NETWORK) == first
    network = data.network(folder)
    assert (network.name, network.hash) == ("emoji-network", first)
    test = dataset.validation
    reading = read_scenes(network.model, test.image)
    right = data.accuracy(reading, test.label, "class")
    assert f"class {right['class accuracy']:.1%}, group 100.0%" in network.origin
    assert right["group accuracy"] == 1  # there is one
    assert (
        data.accuracy(read_scenes(network.model, test.image), test.label, "none") == {}
    )


def test_samples_are_asked_for_what_training_emoji_are(data, dataset):
    labels = data.sample_labels(dataset.train.label, 500, "class")
    assert len(labels) == 500
    np.testing.assert_array_equal(
        labels[: len(dataset.train.label)], dataset.train.label
    )


def test_guided_samples_are_of_the_same_generators(data, tmp_path):
    paths = RunPaths(tmp_path)
    plain = plan("laptop", [0], data)
    guided = plan("laptop", [0], data, guidance=3.0)
    for one, other in zip(plain, guided, strict=True):
        assert other.sampler.guidance == 3.0
        assert paths.generator(other) == paths.generator(one)
        assert paths.result(other) != paths.result(one)


def test_longer_generators_are_of_the_same_tokenizers(data, tmp_path):
    paths = RunPaths(tmp_path)
    plain = plan("laptop", [0], data)
    longer = plan("laptop", [0], data, generator_steps=9000)
    for one, other in zip(plain, longer, strict=True):
        assert other.budgets == (6000, 9000)
        assert other.generate.num_steps == 9000
        assert paths.tokenizer(other) == paths.tokenizer(one)
        assert paths.generator(other) != paths.generator(one)
    [few, *_] = plan("laptop", [0], data, generator_steps=500)
    assert few.budgets == (500,)
    with pytest.raises(ValueError, match=r"`generator_steps` \(0\) must be 1 or more"):
        Options(generator_steps=0)


def test_runs_are_named_by_the_emoji_and_not_by_their_place(data, tars, tmp_path):
    specs = plan("laptop", [0, 1, 2], data)
    assert len({spec_hash(spec) for spec in specs}) == len(specs) == (9 * 2 + 1) * 3
    spec, paths = specs[0], RunPaths(tmp_path)
    assert from_dict(RunSpec, json.loads(as_json(spec))) == spec
    moved = dataclasses.replace(spec, data=dataclasses.replace(data, tars="elsewhere"))
    assert spec_hash(moved) == spec_hash(spec)
    assert paths.data(moved) == paths.data(spec)
    for changes in (
        dict(digest="another"),
        dict(version="17"),
        dict(options=EmojiConfig(size=16, seed=1)),
        dict(network_training=dataclasses.replace(TINY, num_epochs=2)),
    ):
        other = dataclasses.replace(data, **changes)
        assert short_hash(other) != short_hash(data)
    assert spec.kind.network_hash(paths.data(spec)) == ""  # never trained there


def test_ten_minutes_of_an_accelerator_ask_the_question_first(data):
    specs = plan("accelerator", [0, 1], data)
    first = [(spec.method, spec.setting) for spec in specs[:3]]
    assert first == [("AE", "64"), ("VTP", "64"), ("AE", "32")]
    assert [spec.seed for spec in specs] == [0] * 5 + [1] * 5
    assert {spec.generate.precision for spec in specs} == {"bfloat16"}


def test_other_tars_than_planned_are_refused(data, tmp_path):
    other = write_made_up_emoji(tmp_path / "other", EmojiConfig(size=16, seed=1))
    moved = dataclasses.replace(data, tars=str(other))
    with pytest.raises(ValueError, match="as when the study was planned"):
        prepare(moved, tmp_path / "prepared", print)
    with pytest.raises(ValueError, match=r"has no emoji.json, groups.txt"):
        EmojiData.of(tmp_path)
    for text in ("{", "[]", '{"seed": 1}', '{"version": "1", "option": 1}'):
        (other / RECORD).write_text(text)
        with pytest.raises(
            ValueError, match=r"^`tars` \(.*\) must have the emoji.json"
        ):
            EmojiData.of(other)


def test_a_network_that_is_not_trained_ends_a_study(data, tmp_path, monkeypatch):
    failed = lambda command, env: subprocess.CompletedProcess(command, 1)
    monkeypatch.setattr("vtp_eqx.study.emoji_data.subprocess.run", failed)
    with pytest.raises(ValueError, match=r"ended with status 1, for the reason above"):
        prepare(data, tmp_path, lambda text: None)


def test_what_emoji_do_not_have_is_refused(data):
    recipe = compare_emoji.recipe_for(Options(smoke=True), data)
    with pytest.raises(ValueError, match=r"`labels` \('color'\) must be known"):
        run(recipe, "AE", "x", 0, labels="color")
    with pytest.raises(ValueError, match=r"`tokenizer_images` \(24\) must be of s"):
        run(recipe, "AE", "x", 0, tokenizer_images=24)


def test_a_report_of_emoji_speaks_of_emoji(data, row, tmp_path):
    rows = []
    for spec in plan("laptop", [0, 1, 2], data):
        distance = 9.0 - spec.seed - (spec.method == "VTP")
        oracle = {
            "class accuracy in real images": 0.71,
            "class accuracy in reconstructions": 0.64,
        }
        other = {f"FD-emoji @{spec.budgets[0]}": 20.0, "MIND": 7.0}
        rows.append(row(spec, distance, **oracle, **other))
    sentences = compare_emoji.summary(rows)
    assert sentences[0].startswith(
        "The network sees the class of 71% of held-out emoji"
    )
    assert any("FD-emoji of VTP beside AE" in sentence for sentence in sentences)
    study = Study(
        name="emoji", title="Emoji", question="Which?", plan=lambda *_: [],
        figure=functools.partial(
            frontier_figure, names=("FD-emoji @2000", "FD-emoji", "class accuracy")
        ),
        summary=compare_emoji.summary, columns=compare_emoji.columns(2000),
    )  # fmt: skip
    assert study.guided(1.0) is study
    guided = study.guided(2.5)
    assert (guided.name, guided.title) == ("emoji_guided_2.5", "Emoji, guidance 2.5")
    write_report(study, rows, RunPaths(tmp_path), tmp_path, command="x", seconds=60.0)
    text = (tmp_path / "report.md").read_text()
    means = text.partition("## Means over seeds")[2].partition("##")[0]
    assert "FD-emoji @2000 | FD-emoji (lower is better) | class right" in means
    # Without those that scenes alone have.
    assert not re.findall("scene|shape|color|reweighted", text.partition("## Set")[0])


@pytest.mark.slow
def test_a_smoke_run_has_every_number_of_its_table(data, folder, tmp_path, monkeypatch):
    paths = RunPaths(tmp_path)

    def execute_here(specs, *_, finished, **__):
        for spec in specs:
            shutil.copytree(folder, paths.data(spec), dirs_exist_ok=True)
            execute_run(spec, paths, lambda *_: None)
            finished(spec)
        return []

    monkeypatch.setattr("vtp_eqx.study.command.execute_runs", execute_here)
    monkeypatch.setattr("vtp_eqx.study.command.prepare", lambda *_: None)
    monkeypatch.setattr(compare_emoji, "write_made_up_emoji", lambda *_: None)
    monkeypatch.setattr(EmojiData, "of", lambda *_, **__: data)
    compare_emoji.main(compare_emoji.Options(smoke=True, runs=tmp_path, workers=1))
    out = tmp_path / "compare_emoji-smoke" / "compare_emoji"
    [record] = json.loads((out / "runs.json").read_text())
    names = [column.name for column in compare_emoji.columns(3)]
    others = ("probe features group", "zero-shot class", "memorization, features")
    for name in (
        *names,
        *others,
        "FD(train, validation)",
        "group accuracy, normalized",
    ):
        assert np.isfinite(record[name]), name
    assert not [name for name in record if re.search("scene|shape|color|total", name)]
    folder = tmp_path / "results" / record["hash"]
    card = json.loads((folder / "card_generation_6.json").read_text())
    assert "emoji-network" in json.dumps(card)
    assert "right about held-out ones: class" in json.dumps(card)
    assert (out / "report.md").read_text().count("![samples of") == 1
