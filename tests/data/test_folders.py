import os
import pickle

import numpy as np
import pytest

from vtp_eqx.data.folders import FolderSource, in_order
from vtp_eqx.data.images import decode_image, UnreadableImageError
from vtp_eqx.data.mixture import make_sampler, read_encoded
from vtp_eqx.data.prefetch import ExampleReader
from vtp_eqx.data.skipped import Skipped, skipped_of


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


def skipped(source):
    """The names of what was left out, by the first words of the reason."""
    return {one.reason.split(" ")[0]: [*one.names] for one in skipped_of(source)}


def test_all_that_is_left_out_is_named(classes, photograph):
    thumbnails = (
        "b/@eaDir/2.jpg/SYNOPHOTO_THUMB_M.jpg", "b/.thumbnails/2.jpg", "c/._x.jpeg",
        "#recycle/9.jpg", "c/.ipynb_checkpoints/x.jpg", "__MACOSX/b/2.jpg",
    )  # fmt: skip
    for name in thumbnails:
        (classes / name).parent.mkdir(parents=True, exist_ok=True)
        photograph.save(classes / name)
    for name in ("c/Thumbs.db", "b/.DS_Store", "a/list.csv"):
        (classes / name).write_bytes(b"")
    source = FolderSource(classes)
    assert source.names == ["b/2.jpg", "b/deep/1.PNG", "c/x.jpeg"]
    assert source.class_names == ("a", "b", "c")
    reasons = {one.reason: one for one in skipped_of(source)}
    assert reasons["files are no images by name"].names == ["a/list.csv", "c/notes.txt"]
    hidden = reasons["files and folders are hidden or of a file server"]
    assert sorted(hidden.names) == [
        "#recycle/", ".cache/", "__MACOSX/", "b/.DS_Store", "b/.thumbnails/",
        "b/@eaDir/", "c/._x.jpeg", "c/.hidden", "c/.ipynb_checkpoints/", "c/Thumbs.db",
    ]  # fmt: skip
    assert hidden.count == 10
    assert str(hidden).startswith("10 files and folders are hidden")


def test_what_is_left_out_is_counted_in_one_line():
    files = Skipped("files are odd", 9, ["a", "b", "c", "d", "e", "f"])
    assert str(files) == "9 files are odd: a, b, c, d, e, ..."
    assert str(files.without({"a", "f"})) == "7 files are odd: b, c, d, e, ..."
    assert not Skipped("files are odd", 1, ["a"]).without({"a"}).count
    # A name may hold anything; what is printed is one line.
    assert str(Skipped("files are odd", 1, ["a\n\x89b"])).endswith(r": a\n\x89b")


def test_a_class_folder_that_may_not_be_read_is_named_and_keeps_its_label(
    classes, monkeypatch
):
    scan = os.scandir

    def refuse(path="."):
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = FolderSource(classes)
    assert source.names == ["c/x.jpeg"]
    assert source[0]["label"] == 2
    assert skipped(source)["folders"] == ["b (Permission denied)"]
    (classes / "c/x.jpeg").unlink()
    with pytest.raises(ValueError, match=r"not be read: b \(Permission denied\)"):
        FolderSource(classes)


def test_pipes_are_not_waited_for(classes):
    os.mkfifo(classes / "b" / "pipe.png")
    (classes / "c" / "link.png").symlink_to(classes / "b" / "pipe.png")
    source = FolderSource(classes)
    assert source.names == ["b/2.jpg", "b/deep/1.PNG", "c/x.jpeg"]
    assert skipped(source)["folders"] == [
        "b/pipe.png (neither file nor folder)", "c/link.png (neither file nor folder)"
    ]  # fmt: skip


def test_links_multiply_no_images(classes):
    for name, target in (
        ("b/up", ".."), ("b/deep/root", classes), ("all", "."), ("z", "b"),
        ("b/self", "self"), ("b/away", "nowhere"), ("outside", classes.parent),
    ):  # fmt: skip
        (classes / name).symlink_to(target)
    source = FolderSource(classes)
    assert source.names == ["b/2.jpg", "b/deep/1.PNG", "c/x.jpeg"]
    assert source.class_names == ("a", "b", "c")
    assert sorted(skipped(source)["links"]) == [
        "all", "b/deep/root", "b/up", "outside", "z"
    ]  # fmt: skip


def test_links_to_other_places_are_followed(classes, tmp_path_factory, photograph):
    other = tmp_path_factory.mktemp("other")
    photograph.save(other / "9.png")
    (classes / "d").symlink_to(other)
    (classes / "c" / "again.jpg").symlink_to(classes / "b" / "2.jpg")
    source = FolderSource(classes)
    assert source.names[2:] == ["c/again.jpg", "c/x.jpeg", "d/9.png"]
    assert source.class_names == ("a", "b", "c", "d")
    root = tmp_path_factory.mktemp("root") / "link"
    root.symlink_to(classes)
    assert FolderSource(root).names == source.names


def test_captions_and_labels_beside_images_are_read(tmp_path, photograph):
    for name in ("00.jpg", "01.1.jpg", "02.png", "03.png", "04.png"):
        photograph.save(tmp_path / name)
    for name, content in (
        ("00.txt", b" a hill \n"), ("01.1.json", b'{"caption": "a sun", "label": 4}'),
        ("02.txt", b"caf\xe9"), ("02.cls", b"7"), ("04.txt", b""), ("05.txt", b"no"),
        ("01.txt", b"of none"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    source = FolderSource(tmp_path)
    examples = [source.encoded(row) for row in range(5)]
    assert [one.get("caption") for one in examples] == [
        "a hill", "a sun", "caf\ufffd", None, ""
    ]  # fmt: skip
    assert [one.get("label") for one in examples] == [None, 4, 7, None, None]
    assert "not UTF-8" in examples[2]["repair"]
    assert examples[3].keys() == {"id", "image"}
    assert source.ignored == ["01.txt", "05.txt"]
    before = source.fingerprint
    (tmp_path / "00.txt").unlink()
    assert "00.txt cannot be read (No such file" in source.encoded(0)["repair"]
    assert FolderSource(tmp_path).fingerprint != before


def test_a_class_folder_goes_before_a_label_beside_the_image(classes):
    (classes / "c/x.json").write_text('{"caption": "a hill", "label": 9}')
    example = FolderSource(classes)[2]
    assert (example["caption"], example["label"]) == ("a hill", 2)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a/0.tar", r"pattern such as 'FOLDER/\*/\*.tar'"),
        ("a.tar.gz", "unpack the archives"),
        ("a/b.ZIP", "unpack the archives"),
        ("images.npz", "name an .npz itself"),
        ("0.parquet", "write the images of the tables"),
        ("a.heic", "convert the images"),
        ("notes.md", "check the path"),
    ],
)
def test_a_folder_without_images_says_what_was_seen(tmp_path, name, advice):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"1 files are no .*: {name}.*{advice}"):
        FolderSource(tmp_path)
