import dataclasses
import json

import pytest

from vtp_eqx.config import SamplerConfig
from vtp_eqx.evaluation.card import EvaluationCard, read, write


RECONSTRUCTION = EvaluationCard(
    num_samples=100,
    num_reference=100,
    reference_hash="aa",
    tokenizer_hash="bb",
    latents_hash="cc",
    precision="float32",
    feature_network="scene-network",
    feature_hash="dd",
)
GENERATION = dataclasses.replace(
    RECONSTRUCTION,
    sampler=SamplerConfig(num_steps=20, guidance=1.5),
    labels="balanced",
    generator_hash="ee",
    generator_latents_hash="cc",
)
INCEPTION = dataclasses.replace(GENERATION, feature_network="inception-v3")


@pytest.mark.parametrize("card", [RECONSTRUCTION, GENERATION])
def test_a_card_reads_back_as_it_was_written(card, tmp_path):
    path = tmp_path / "deep" / "card.json"
    write(path, {"FD-scenes": 1.25}, card, num_evaluated=100)
    assert read(path) == ({"FD-scenes": 1.25}, card)
    assert [file.name for file in path.parent.iterdir()] == ["card.json"]


def test_files_that_were_left_out_stand_beside_the_card(tmp_path):
    path, skipped = tmp_path / "card.json", {"a.jpg": "torn"}
    write(path, {"psnr": 1.0}, RECONSTRUCTION, num_evaluated=100, skipped=skipped)
    assert json.loads(path.read_text())["skipped"] == skipped
    assert read(path) == ({"psnr": 1.0}, RECONSTRUCTION)


def test_every_field_is_on_the_card(tmp_path):
    path = tmp_path / "card.json"
    write(path, {"psnr": 30.0}, GENERATION, num_evaluated=100)
    written = json.loads(path.read_text())["card"]
    assert written.keys() == {f.name for f in dataclasses.fields(EvaluationCard)}
    sampler = {f.name for f in dataclasses.fields(SamplerConfig)}
    assert written["sampler"].keys() == sampler


@pytest.mark.parametrize("name", ["FID", "gFID", "rFID", "fid_10k"])
def test_only_inception_features_make_an_fid(name, tmp_path):
    path = tmp_path / "card.json"
    with pytest.raises(ValueError, match="Inception"):
        write(path, {name: 1.0}, GENERATION, num_evaluated=100)
    assert not path.exists()
    write(path, {name: 1.0}, INCEPTION, num_evaluated=100)


def test_a_card_altered_by_hand_is_refused(tmp_path):
    path = tmp_path / "card.json"
    write(path, {"FID": 1.0}, INCEPTION, num_evaluated=100)
    path.write_text(path.read_text().replace("inception-v3", "scene-network"))
    with pytest.raises(ValueError, match="Inception"):
        read(path)


def test_another_count_than_the_cards_is_refused(tmp_path):
    with pytest.raises(ValueError, match="99 evaluated"):
        write(tmp_path / "card.json", {"psnr": 1.0}, GENERATION, num_evaluated=99)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    for number in (float("nan"), 10**400):
        with pytest.raises(ValueError, match="finite"):
            write(tmp_path / "c", {"psnr": number}, GENERATION, num_evaluated=100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator_latents_hash": "other"}, "trained with"),
        ({"latents_hash": ""}, "trained with"),
        ({"latents_hash": "", "generator_latents_hash": ""}, "generator_latents_hash"),
        ({"sampler": None}, "sampler"),
        ({"labels": "none"}, "labels"),
        ({"num_samples": 0}, "num_samples"),
        ({"tokenizer_hash": ""}, "tokenizer_hash"),
        ({"feature_hash": ""}, "go together"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GENERATION, **changes)


def test_samples_of_another_origin_have_words_for_hashes(tmp_path):
    foreign = dataclasses.replace(
        RECONSTRUCTION, origin="ADM", tokenizer_hash="", latents_hash=""
    )
    write(tmp_path / "card.json", {"FD-scenes": 1.0}, foreign, num_evaluated=100)
    assert read(tmp_path / "card.json")[1] == foreign
    with pytest.raises(ValueError, match="fill in one"):
        dataclasses.replace(RECONSTRUCTION, origin="ADM")
    with pytest.raises(ValueError, match="leave out either"):
        dataclasses.replace(GENERATION, origin="A", tokenizer_hash="", latents_hash="")


def test_only_inception_classes_make_an_inception_score(tmp_path):
    path = tmp_path / "card.json"
    with pytest.raises(ValueError, match="Inception's classes"):
        write(path, {"Inception score": 9.0}, GENERATION, num_evaluated=100)
    write(path, {"Inception score": 9.0}, INCEPTION, num_evaluated=100)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "named fields; got "),
        ("{", "Expecting property name"),
        ('{"numbers": {}}', r"must have the fields \['card'\]"),
        ('{"numbers": {"psnr": "1"}, "card": {}}', "must have the fields"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_card_is_said_in_a_sentence(content, reason, tmp_path):
    path = tmp_path / "card.json"
    path.write_text(content)
    message = rf"^A card is one .* got .*card.json, .*{reason}.*: evaluate again\.$"
    with pytest.raises(ValueError, match=message):
        read(path)
    write(path, {"psnr": 1.0}, RECONSTRUCTION, num_evaluated=100)
    path.write_text(path.read_text().replace("1.0", "NaN"))
    with pytest.raises(ValueError, match="A number on a card is finite; got psnr"):
        read(path)
