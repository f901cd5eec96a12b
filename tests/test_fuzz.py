"""Damaged files through the readers that cost least, and that a bad end is seen."""

from pathlib import Path
import pickle

import pytest

from benchmarks import fuzz, fuzz_readers
from benchmarks.fuzz_mutations import Payload
from benchmarks.fuzz_readers import FuzzedReader, READERS


def cases(reader, folder, count):
    sound = fuzz.make_sound(reader, folder / "sound")
    return [fuzz.run_case(reader, n, 0, sound, folder) for n in range(count)]


def test_every_reader_has_a_share():
    assert fuzz.SHARES.keys() == READERS.keys()


@pytest.mark.parametrize(
    "reader",
    [
        "folder", "tar", "index of a tar", "reference .npz", "samples",
        "classes, templates", "vocabulary", "latents", "LightningDiT latents", "card",
    ],
)  # fmt: skip
def test_damaged_files_end_in_a_number_or_a_sentence(reader, tmp_path):
    found = cases(reader, tmp_path, 20)
    assert not [case for case in found if case.outcome not in fuzz.GOOD]


def test_a_case_is_a_function_of_its_number(tmp_path):
    found, again = (
        [case.outcome for case in cases("card", tmp_path / name, 12)]
        for name in ("once", "again")
    )
    assert found == again
    assert {*found} == {*fuzz.GOOD}


def raises(error):
    def open_folder(folder):
        if (folder / "a.txt").read_text() != "sound":
            raise error

    return open_folder


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("`a` (1) must be 2: change it."), "sentence"),
        (FileNotFoundError("There is no file: check the path."), "sentence"),
        (ValueError("math domain error"), "traceback"),
        (ValueError("One line.\nAnother."), "traceback"),
        (ValueError("x" * 5000 + "."), "traceback"),
        (KeyError("A key."), "traceback"),
        (MemoryError("No memory."), "traceback"),
    ],
)
def test_what_is_no_sentence_is_a_traceback(error, outcome, tmp_path, monkeypatch):
    made = FuzzedReader(lambda folder: as_text(folder / "a.txt"), raises(error))
    monkeypatch.setitem(READERS, "odd", made)
    assert outcome in {case.outcome for case in cases("odd", tmp_path, 3)}


def as_text(path):
    path.write_text("sound")


def test_code_that_a_file_runs_is_seen(tmp_path, monkeypatch):
    def make(folder):
        (folder / "a.pkl").write_bytes(pickle.dumps(1))

    def mutated(name, content, rng, marker):
        return pickle.dumps(Payload(marker))

    monkeypatch.setattr(fuzz_readers, "mutated", mutated)
    reader = FuzzedReader(
        make, lambda folder: pickle.loads((folder / "a.pkl").read_bytes())
    )
    monkeypatch.setitem(READERS, "odd", reader)
    [case] = cases("odd", tmp_path, 1)
    assert case.outcome == "executed"
    assert not Path(tmp_path / "executed").exists()  # taken away for the next one
