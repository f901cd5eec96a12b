import json

import numpy as np
import pytest

from vtp_eqx.evaluation.prompts import (
    check_class_names,
    describe_classes,
    fill_templates,
    read_class_names,
    read_templates,
)


NAMES = ["cat", "dog", "great grey owl"]


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\ngreat grey owl\n",
        b"cat\ndog\ngreat grey owl",
        b"\xef\xbb\xbfcat\r\ndog\r\ngreat grey owl\r\n",
        b"cat\rdog\rgreat grey owl\r",
        b"\ncat\n\ndog \n \t\n  great grey owl\n\n\n",
        "\ufeffcat\n\ufeffdog\ngreat grey owl".encode(),
        "cat\ndog\ngreat grey owl\n".encode("utf-16"),
        "cat\ndog\ngreat grey owl\n".encode("utf-8-sig"),
    ],
)
def test_names_are_lines_however_an_editor_saved_them(content, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert read_class_names(path) == NAMES


def test_a_name_keeps_what_is_inside_it(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("crème brûlée\nA\u2028B\n{curly}\n", encoding="utf-8")
    names = read_class_names(path)
    assert names == ["crème brûlée", "A\u2028B", "{curly}"]
    assert fill_templates(names, ["a {}."])[2] == ["a {curly}."]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"\n \r\n", "it is empty"),
        ("cat\ncr\u00e8me\n".encode("latin-1"), "UTF-8; line 2 is not"),
        (json.dumps(NAMES).encode(), "got JSON"),
        (json.dumps({"0": ["n01440764", "tench"]}, indent=1).encode(), "got JSON"),
        ("cat\ndog".encode("utf-16-le"), "got binary content"),
    ],
)
def test_a_file_that_is_no_list_is_a_sentence(content, sentence, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    for read, option in ((read_class_names, "classes"), (read_templates, "templates")):
        with pytest.raises(
            ValueError, match=rf"`{option}` \(.*names.txt\).*{sentence}"
        ):
            read(path)


def test_a_missing_file_and_a_folder_are_a_sentence(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"`classes` .* check the path"):
            read_class_names(path)


@pytest.mark.parametrize(
    "template", ["a photo", "a {c}", "{} or {}", "a {} {c}", "{{}}", "{", "{ }", "{0}"]
)
def test_a_template_has_one_place_for_the_name(template, tmp_path):
    path = tmp_path / "templates.txt"
    path.write_text(f"a {{}}\n{template}\n")
    with pytest.raises(ValueError, match=r"no other braces; got .* in .*templates.txt"):
        read_templates(path)
    with pytest.raises(ValueError, match="no other braces"):
        fill_templates(NAMES, ["a {}", template])


def test_names_are_checked_against_labels_and_folders():
    check_class_names(NAMES, np.array([0, 2]), ("n1", "n2", "n3"))
    check_class_names(NAMES, np.zeros(0, int))
    with pytest.raises(ValueError, match="got 3 names and the label 3"):
        check_class_names(NAMES, np.array([0, 3]))
    with pytest.raises(ValueError, match="got 3 names and 2 class folders"):
        check_class_names(NAMES, np.array([0]), ("a", "b"))
    check_class_names(NAMES, np.array([0]), ("Cat", "dog", "great_grey_owl"))
    with pytest.raises(ValueError, match="such as 'dog' for the folder 'cat'"):
        check_class_names(["dog", "cat"], np.array([0]), ("cat", "dog"))


def test_the_ends_of_a_list_and_what_repeats_are_shown():
    assert describe_classes(NAMES, ("n1", "n2", "n3")) == (
        "3 classes: label 0 is 'cat' (folder 'n1'), "
        "2 is 'great grey owl' (folder 'n3')."
    )
    # As in the published list of ImageNet's classes, which has sunglasses twice.
    text = describe_classes(["cat", "dog", "cat"])
    assert "1 names repeat earlier ones, such as 'cat' (labels 0 and 2)" in text
