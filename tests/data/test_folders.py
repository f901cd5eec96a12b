import pickle

import numpy as np
import pytest

from vtp_eqx.data.folders import FolderSource, in_order
from vtp_eqx.data.images import decode_image, UnreadableImageError
from vtp_eqx.data.mixture import make_sampler, read_encoded
from vtp_eqx.data.prefetch import ExampleReader


@pytest.fixture
def classes(tmp_path, photograph):
    """Three classes of 2, 0 and 1 photographs, one of them deeper, and other files."""
    for name in ("b/2.jpg", "b/deep/1.PNG", "c/x.jpeg", "c/notes.txt", "c/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name[-3:] in ("jpg", "PNG", "peg"):
            photograph.save(tmp_path / name)
        else:
            (tmp_path / name).write_text("not an image")
    (tmp_path / "a").mkdir()
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_labels_are_places_among_the_sorted_names_of_classes(classes):
    source = FolderSource(classes)
    assert source.class_names == ("a", "b", "c")
    assert source.names == ["b/2.jpg", "b/deep/1.PNG", "c/x.jpeg"]
    assert [source[row]["label"] for row in range(len(source))] == [1, 1, 2]
    assert source[0]["image"].shape == (90, 120, 3)


def test_other_files_are_named_and_hidden_ones_are_not(classes):
    assert FolderSource(classes).ignored == ["c/notes.txt"]


def test_a_flat_folder_has_no_labels(tmp_path, photograph):
    for name in ("2.png", "1.png", "10.png"):
        photograph.save(tmp_path / name)
    source = FolderSource(tmp_path)
    assert source.names == ["1.png", "10.png", "2.png"]
    assert source.class_names == ()
    assert source[1].keys() == {"id", "image"}


def test_a_damaged_file_and_one_that_goes_are_unreadable_by_name(classes):
    source = FolderSource(classes)
    (classes / "b/2.jpg").write_bytes(b"torn")
    (classes / "c/x.jpeg").unlink()
    for row, name in ((0, "b/2.jpg"), (2, "c/x.jpeg")):
        with pytest.raises(UnreadableImageError) as caught:
            source[row]
        assert caught.value.name == name
    assert source[1]["label"] == 1


def test_large_photographs_are_read_by_a_stream_at_the_scale_that_is_wanted(
    tmp_path, photograph, monkeypatch
):
    photograph.resize((1200, 900)).save(tmp_path / "a.jpg")
    source = FolderSource(tmp_path)
    assert read_encoded(source, 0)["image"] == (tmp_path / "a.jpg").read_bytes()
    asked = []
    monkeypatch.setattr(
        "vtp_eqx.data.prefetch.decode_image",
        lambda *where, **how: (asked.append(how), decode_image(*where, **how))[1],
    )
    sampler = make_sampler(source, 1, seed=0)
    ExampleReader(source=source, sampler=sampler, size=16).read(0, np.arange(1))
    assert asked == [{"least": 16, "min_side": 16}]


def test_the_fingerprint_is_of_the_files(classes, photograph):
    prints = [FolderSource(classes).fingerprint for _ in range(2)]
    (classes / "c/x.jpeg").write_bytes(b"other")
    prints.append(FolderSource(classes).fingerprint)
    photograph.save(classes / "c/y.png")
    prints.append(FolderSource(classes).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_source_travels_to_another_process(classes):
    source = FolderSource(classes)
    there = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(there[1]["image"], source[1]["image"])


def test_folders_without_a_meaning_are_refused(classes, tmp_path, photograph):
    with pytest.raises(ValueError, match="check the path"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="found none"):
        FolderSource(classes / "a")
    photograph.save(classes / "loose.png")
    with pytest.raises(ValueError, match=r"1 of 4 beside class folders .*loose"):
        FolderSource(classes)


@pytest.mark.parametrize(
    "names",
    [
        ["8", "9", "10", "11"],
        [str(label) for label in range(12)],
        ["class_9", "class_10"],
        ["9_cat", "10_ant"],
        ["v2_class_9", "v2_class_10"],
        ["class", "class10", "class9"],  # one has no number
        ["2", "03", "10"],
        ["n01440764", "n01443537"],
        ["01", "1", "2"],
        ["10", "9th", "a"],  # not all by number
        ["n2", "p10", "p9"],
        ["10", "9", "²"],
        ["cat"],
        [],
    ],
)
def test_folders_named_by_numbers_are_in_the_order_of_numbers(names):
    assert in_order(names[::-1]) == names


def test_labels_follow_the_numbers_of_folders(tmp_path, photograph):
    for name in ("10", "9", "8"):
        (tmp_path / name).mkdir()
        photograph.save(tmp_path / name / "x.png")
    source = FolderSource(tmp_path)
    assert source.class_names == ("8", "9", "10")
    labels = {source.names[row]: source[row]["label"] for row in range(3)}
    assert labels == {"8/x.png": 0, "9/x.png": 1, "10/x.png": 2}
