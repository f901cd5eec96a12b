import os
import pickle
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.loader import batches, rows_at
from vtp_eqx.data.sources import ArraySource, load_arrays, open_source, TfdsSource
from vtp_eqx.scenes.render import render, SceneConfig
from vtp_eqx.scenes.tfds_builder import prepare_scenes


CONFIG = SceneConfig(size=16, num_train=48, num_validation=24, difficulty=0.9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare_scenes(CONFIG, tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_prepared_split_holds_the_scenes_in_their_order(folder, split):
    scenes = render(CONFIG, getattr(CONFIG, f"{split}_indices")).arrays()
    np.testing.assert_equal(load_arrays(TfdsSource(folder, split)), scenes)


def test_a_slice_of_a_split_is_that_slice(folder):
    half = TfdsSource(folder, "train[50%:]")
    assert len(half) == 24
    assert half[0]["id"] == 24


def test_an_example_is_plain(folder):
    example = TfdsSource(folder, "train")[5]
    scenes = render(CONFIG, np.array([5]))
    assert example["caption"] == scenes.caption[0]
    assert example["label"] == scenes.label[0]
    assert example["shape"] == scenes.attributes["shape"][0]
    assert example["image"].dtype == np.uint8
    np.testing.assert_array_equal(example["image"], scenes.image[0])


def test_a_batch_of_arrays_has_the_examples_on_disk(folder):
    source = TfdsSource(folder, "train")
    options = {"seed": 1, "group": 4}
    rows = rows_at(4, len(source), 16, **options)
    in_memory = next(batches(load_arrays(source), 16, start_step=4, **options))
    for place, row in enumerate(rows.tolist()):
        one = {name: values[place] for name, values in in_memory.items()}
        np.testing.assert_equal(one, source[row])


def test_a_source_travels_to_another_process(folder):
    source = pickle.loads(pickle.dumps(TfdsSource(folder, "train")))
    assert source[3]["id"] == 3


def test_preparing_twice_writes_nothing_new(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare_scenes(CONFIG, folder.parents[2]) == folder
    assert (
        before.items()
        <= {path: path.stat().st_mtime_ns for path in folder.iterdir()}.items()
    )


def test_other_scenes_have_another_place(folder):
    other = SceneConfig(size=16, num_train=48, num_validation=24, seed=1)
    assert prepare_scenes(other, folder.parents[2]) != folder


def test_a_damaged_cache_is_written_anew_and_leaves_no_parts(folder):
    source = TfdsSource(folder, "validation")
    arrays = load_arrays(source)
    path = folder / f"arrays-{source.fingerprint}.npz"
    path.write_bytes(path.read_bytes()[:5000])
    np.testing.assert_equal(load_arrays(source), arrays)
    with np.load(path) as cached:
        assert cached["image"].shape == (24, 16, 16, 3)
    assert not list(folder.glob("*.part"))


def test_splits_have_caches_of_their_own(folder):
    prints = {
        TfdsSource(folder, split).fingerprint for split in ("train", "validation")
    }
    assert len(prints) == 2


def test_a_folder_without_data_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"found none in .*: prepare it"):
        TfdsSource(tmp_path, "train")


def test_preparing_and_reading_never_import_tensorflow(tmp_path):
    program = (
        "import sys\n"
        "from vtp_eqx.scenes.render import SceneConfig\n"
        "from vtp_eqx.scenes.tfds_builder import prepare_scenes\n"
        "from vtp_eqx.data.sources import TfdsSource\n"
        "config = SceneConfig(size=16, num_train=24, num_validation=24)\n"
        "folder = prepare_scenes(config, sys.argv[1])\n"
        "assert TfdsSource(folder, 'train')[0]['caption']\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "XLA_FLAGS": ""}
    subprocess.run(command, check=True, capture_output=True, env=environment)


def test_images_in_memory_are_a_source(tmp_path):
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    path = tmp_path / "samples.npz"
    np.savez(path, arr_0=images, arr_1=np.array([7, 3]))
    source = open_source(path)
    assert len(source) == 2
    assert source[1]["label"] == 3
    np.testing.assert_array_equal(source[1]["image"], images[1])
    other = ArraySource({"image": images + 1, "label": np.array([7, 3])})
    assert source.fingerprint != other.fingerprint
    with pytest.raises(ValueError, match="uint8"):
        ArraySource({"image": images / 255})
    with pytest.raises(ValueError, match=r"of shape \(2, 0, "):
        ArraySource({"image": images[:, :0]})
    labels = (np.arange(3), np.array(7))
    for short in (
        {"image": images[:0]},
        *({"image": images, "label": of} for of in labels),
    ):
        with pytest.raises(ValueError, match=r"got {'image': ."):
            ArraySource(short)


def test_a_path_opens_as_what_it_is(folder, tmp_path):
    assert isinstance(open_source(folder, "train"), TfdsSource)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    assert isinstance(open_source(tmp_path), FolderSource)
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    np.savez(tmp_path / "torn.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    whole = (tmp_path / "torn.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[: len(whole) // 2])
    for path, split, message in [
        (folder, "", "name one"),
        (tmp_path, "train", "leave it out"),
        (tmp_path / "other.npz", "", "arr_0"),
        (tmp_path / "torn.npz", "", "a whole file; got"),
        (tmp_path / "none.npz", "", "a whole file; got .*No such file"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_source(path, split)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tar.gz", b"\x1f\x8b", "is an archive .*: unpack it"),
        ("a.ZIP", b"PK", "is an archive .*: unpack it"),
        ("shards/{0..3}.tar.gz", None, "is an archive .*: unpack it"),
        ("a.png", b"\x89PNG", r"got a PNG image: name one"),
        ("0.parquet", b"PAR1", r"got a Parquet table: name one"),
        ("html.npz", b"<html>", r"html.npz \(an HTML page\): check"),
        ("lfs.npz", b"version https://git-lfs.", r"\(a pointer of Git LFS .*lfs pull"),
        ("gs://bucket/train", None, "`data` .gs://bucket/train. must be a path on"),
        ("https://a.b/{0..3}.tar", None, "must be a path on this machine"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_to_do(
    tmp_path, monkeypatch, name, content, words
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        open_source(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("split", "change", "words"),
    [
        ("test", None, r"\['train', 'validation'\] \(Unknown split 'test'"),
        ("train[:5", None, r"`split` \('train\[:5' of .*Error parsing split"),
        ("train", ("array_record", "tfrecord"), "prepared as ArrayRecord"),
        ("train", ("{", "<html>"), "cannot read .*: prepare it again"),
        ("train", ('"name"', '"builder_name"'), "cannot read .*of a set that another"),
    ],
)
def test_a_prepared_set_that_is_another_one_is_refused_in_a_sentence(
    folder, tmp_path, split, change, words
):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    if change is not None:
        information = (folder / "dataset_info.json").read_text()
        assert change[0] in information
        (tmp_path / "dataset_info.json").unlink()
        (tmp_path / "dataset_info.json").write_text(information.replace(*change))
    with pytest.raises(ValueError, match=words) as caught:
        open_source(tmp_path, split)
    assert "\n" not in str(caught.value)
