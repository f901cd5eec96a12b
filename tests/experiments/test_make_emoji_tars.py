import contextlib
import dataclasses
import io
import itertools
import json
import tarfile

from hypothesis import given, settings, strategies as st
import numpy as np
from PIL import Image
import pytest

from experiments import make_emoji_tars
from experiments.make_emoji_tars import Options
from tests.runs.test_pretrain_setup import CAPTIONED
from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.data.emoji_packages import (
    base_of,
    fetch_package,
    find_package,
    read_package,
    write_made_up_package,
)
from vtp_eqx.data.emoji_tars import arrange, compose, EmojiConfig, paint_backgrounds
from vtp_eqx.data.sampler import ShardedSampler
from vtp_eqx.data.tars import TarSource
from vtp_eqx.runs.pretrain_options import PretrainOptions
from vtp_eqx.runs.pretrain_setup import PretrainSetup
from vtp_eqx.tokenizer import load


VENDORS = EmojiConfig().vendors


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    for vendor in VENDORS:
        write_made_up_package(folder, vendor)
    return folder


@pytest.fixture(scope="module")
def emoji(packages):
    return [
        one
        for vendor in VENDORS
        for one in read_package(find_package(packages, vendor), vendor)
    ]


@pytest.fixture(scope="module")
def made(packages, tmp_path_factory):
    options = Options(out=tmp_path_factory.mktemp("made"), packages=packages, size=16)
    make_emoji_tars.make(options)
    return options


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".index" not in path.parts
    }


def test_a_package_has_what_its_vendor_draws(emoji):
    names = {
        vendor: [e.name for e in emoji if e.vendor == vendor] for vendor in VENDORS
    }
    assert len(names["google"]) == len(names["twitter"]) == 26
    extra = {"disc 0, light skin", "disc 0, medium-light and dark skin"}
    assert {*names["google"]} - {*names["facebook"]} == extra | {"disc 0"}
    bases = {one.base for one in emoji if one.name.startswith("disc 0")}
    assert bases == {"0000"}
    assert all(len({*own}) == len(own) for own in names.values())


@given(
    seed=st.integers(0, 2**31 - 1),
    run_seed=st.integers(0, 2**31 - 1),
    validation=st.floats(0.1, 1 / 3),
    batch_size=st.integers(2, 12),
)
@settings(max_examples=25)
def test_no_batch_of_a_run_holds_two_versions_of_a_name(
    emoji, seed, run_seed, validation, batch_size
):
    tars = arrange(emoji, EmojiConfig(seed=seed, validation=validation))
    rows = [one.name for path, own in tars.items() if "train" in path for one in own]
    sizes = [len(own) for path, own in tars.items() if "train" in path]

    sampler = ShardedSampler(
        [sizes], batch_size, seed=run_seed, window=1, one_shard_batches=True
    )
    for step in range(2 * len(rows) // batch_size):
        names = [rows[row] for row in sampler(step)]
        assert len({*names}) == batch_size


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=10)
def test_every_drawing_is_in_one_tar_and_what_is_held_out_is_the_same(emoji, seed):
    held_out = "validation/00000.tar"
    first = arrange(emoji, EmojiConfig())
    tars = arrange(emoji[::-1], EmojiConfig(seed=seed))
    keys = [one.key for own in tars.values() for one in own]
    assert sorted(keys) == sorted(one.key for one in emoji)
    assert {one.key for one in tars[held_out]} == {one.key for one in first[held_out]}
    drawn = set()
    for own in tars.values():
        assert len({one.name for one in own}) == len(own)
        of_tar = {(one.base, one.vendor) for one in own}
        assert len({base for base, _ in of_tar}) == len(of_tar)
        assert not of_tar & drawn  # all drawings of a base by a vendor are here
        drawn |= of_tar


@pytest.mark.parametrize(
    ("code", "other"),
    [
        ("1F3C3-200D-2642-FE0F-200D-27A1-FE0F", "1F3C3"),  # a man running to the right
        ("1F468-200D-1F33E", "1F469-200D-1F33E"),  # farmers
        ("1F467", "1F466"),
        ("1F468-200D-1F469-200D-1F467", "1F469-200D-1F469-200D-1F466"),
    ],
)
def test_people_of_any_gender_have_one_base(code, other):
    assert base_of(code) == base_of(other)


def test_what_is_no_person_keeps_its_code():
    codes = ("2640-FE0F", "2642-FE0F", "27A1-FE0F", "1F40B", "1F1E9-1F1EA")
    assert [base_of(code) for code in codes] == [
        "2640-FE0F", "2642-FE0F", "27A1-FE0F", "1F40B", "1F1E9-1F1EA"
    ]  # fmt: skip


def test_the_share_that_is_held_out_is_that_of_the_options(emoji):
    some = [
        dataclasses.replace(emoji[0], name=f"{number}", base=f"{number}", vendor=vendor)
        for number in range(2000)
        for vendor in VENDORS
    ]
    tars = arrange(some, EmojiConfig(validation=0.2))
    counts = {path: len(own) for path, own in tars.items()}
    assert abs(counts.pop("validation/00000.tar") - 1200) < 4 * 1200**0.5
    # A tar has each name with the chance 1 - 0.2; 20 is the deviation.
    assert all(abs(count - 1600) < 100 for count in counts.values())


def test_tars_have_captions_of_name_and_vendor_and_labels_of_subgroups(made):
    classes = (made.out / "classes.txt").read_text().splitlines()
    assert classes == [f"disc {number}" for number in range(4)]
    templates = (made.out / "templates.txt").read_text().splitlines()
    source = TarSource(made.out / "train")
    for row in range(len(source)):
        example = source[row]
        assert example["image"].shape == (16, 16, 3)
        vendor = source.name(row).rpartition("-")[2].capitalize()
        number = int(example["caption"].split("disc ")[1].split(",")[0].split()[0])
        assert example["label"] == number % 4
        fitting = [line for line in templates if vendor in line]
        assert any(
            example["caption"].startswith(line.split("{}")[0])
            and example["caption"].endswith(line.split("{}")[1])
            for line in fitting
        )
    with tarfile.open(made.out / "train" / "00000.tar") as tar:
        names = tar.getnames()
        record = json.load(tar.extractfile(names[1]))
    assert [name.rpartition(".")[2] for name in names[:3]] == ["png", "json", "txt"]
    assert record["keywords"] == [record["name"].split(",")[0].replace(" ", "_")]


def test_a_lost_tar_is_written_again_with_the_same_bytes(made, capsys):
    before = files_of(made.out)
    (made.out / "train" / "00001.tar").unlink()
    make_emoji_tars.make(made)
    assert "1 tars are new" in capsys.readouterr().out
    assert files_of(made.out) == before


def test_tars_of_other_options_are_not_mixed_in(made):
    with pytest.raises(ValueError, match="tars of one kind"):
        make_emoji_tars.make(dataclasses.replace(made, seed=1))


def test_a_tarball_is_read_as_its_folder_is(packages, emoji, tmp_path):
    path = tmp_path / "emoji-datasource-twitter-16.0.0.tgz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(packages / "emoji-datasource-twitter", "package")
    found = find_package(tmp_path, "twitter")
    own = [one for one in emoji if one.vendor == "twitter"]
    assert read_package(found, "twitter") == own
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match="cannot be read as a package of npm"):
        read_package(found, "twitter")


def test_a_drawing_lies_over_its_background():
    config = EmojiConfig(size=8, white=0.4)
    rng = CounterRNG(0, np.arange(400))
    grounds = np.stack([*paint_backgrounds(rng, config)])
    assert grounds.min() >= 0
    assert grounds.max() <= 255
    assert 0.3 < (grounds == 255).all((1, 2, 3)).mean() < 0.5
    flat = (np.ptp(grounds, axis=(1, 2)) < 1e-9).all(-1).mean()
    assert 0.6 < flat < 0.8  # white ones among them
    drawing = np.zeros((8, 8, 4), np.uint8)
    drawing[:, 4:] = (10, 20, 30, 255)
    content = io.BytesIO()
    Image.fromarray(drawing).save(content, "PNG")
    pixels = np.asarray(compose(content.getvalue(), grounds[0]))
    np.testing.assert_array_equal(
        pixels[:, 4:], np.broadcast_to([10, 20, 30], (8, 4, 3))
    )
    np.testing.assert_array_equal(pixels[:, :4], np.rint(grounds[0][:, :4]))
    large = compose(content.getvalue(), np.full((16, 16, 3), 255.0))
    assert large.size == (16, 16)


def test_without_npm_the_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="give `--packages FOLDER`"):
        fetch_package(tmp_path / "packages", "google")
    npm = tmp_path / "npm"
    npm.write_text(
        "#!/bin/sh\necho 'npm warn old' >&2; echo 'npm error E1' >&2; exit 1"
    )
    npm.chmod(0o755)
    with pytest.raises(ValueError, match=r"cannot fetch it \(npm error E1\)"):
        fetch_package(tmp_path / "packages", "google")
    assert not list((tmp_path / "packages").iterdir())
    npm.write_text("#!/bin/sh\necho whole > emoji-datasource-google-16.0.0.tgz")
    path = fetch_package(tmp_path / "packages", "google")
    assert path == find_package(tmp_path / "packages", "google")
    assert path.read_text() == "whole\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "package.json",
            {"name": "emoji-datasource-google", "version": "15.1.2"},
            "must be emoji-datasource-google 16.0.0; got emoji-datasource-google 15.1",
        ),
        ("package.json", {}, "is no whole package"),
        ("emoji.json", None, "cannot be read as a package of npm"),
        ("img/google/64/0003.png", None, "lacks 0003.png"),
    ],
)
def test_a_package_that_is_another_or_not_whole_is_refused(
    file, content, message, tmp_path
):
    write_made_up_package(tmp_path, "google", count=4)
    path = tmp_path / "emoji-datasource-google"
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_package(path, "google")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(vendors=()), "one or more"),
        (dict(vendors=("google", "google")), "each once"),
        (dict(validation=0.4), "at most 1 / 3"),
        (dict(validation=0.0), "above 0"),
        (dict(white=2.0), r"share in \[0, 1\]"),
        (dict(size=0), "`size` 0"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EmojiConfig(**changes)


@pytest.mark.parametrize("kept_apart", [True, False])
def test_the_batches_of_a_pre_training_keep_versions_apart(made, tmp_path, kept_apart):
    options = PretrainOptions(
        config=CAPTIONED, out=str(tmp_path),
        data=(str(made.out / "train"),), classes=str(made.out / "classes.txt"),
        templates=str(made.out / "templates.txt"), devices=1, num_eval=4, window=1,
        one_shard_batches=kept_apart,
    )  # fmt: skip
    setup = PretrainSetup(options, load)
    repeats = 0
    with contextlib.closing(setup.batches.examples(0)) as batches:
        for batch in itertools.islice(batches, 15):
            names = [
                setup.train.name(row).rpartition("-")[0] for row in batch.row.tolist()
            ]
            names = [name.partition("/")[2] for name in names]
            repeats += len(names) - len({*names})
    assert (repeats == 0) == kept_apart


def test_the_smoke_run_reads_what_it_wrote(capsys):
    make_emoji_tars.smoke()
    assert "examples with images" in capsys.readouterr().out
