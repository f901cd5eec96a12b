"""Which numbers predict generation: the statistics, the report, and what is kept."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from vtp_eqx.config import as_json
from vtp_eqx.frozen.scene_network import scene_network_hash
from vtp_eqx.study import prediction
from vtp_eqx.study.prediction import (
    budgets_of,
    correlation,
    diagnosed_run,
    DiagnosedRun,
    largest_setup,
    limit,
    near_reconstructions,
    NUM_IMAGES,
    predictors,
    read_runs,
    uncomparable,
    without_copies,
    write_runs,
)
from vtp_eqx.study.prediction_report import write_prediction_report
from vtp_eqx.study.recipe import run, SMOKE
from vtp_eqx.study.run_spec import finished_specs, RunPaths, without_seed


METHODS = ("AE", "VTP", "noise", "PCA")
WIDTHS = (8, 16, 32)


def made(method, width, seed=0, setup="s", *, distance, good, odd):
    """A run whose number "good" is its FD-scenes, but for its scale, and "odd" none."""
    numbers = {
        f"{name} @{steps}": value / steps
        for steps in (2000, 6000)
        for name, value in (
            ("FD-scenes", distance), ("class accuracy", -distance), ("flow loss", odd),
        )
    }  # fmt: skip
    panel = {"good": good, "odd": odd, "PSNR": width / 2}
    return DiagnosedRun(
        hash=f"{method}{width}{seed}{setup}", method=method, setting=f"{width}",
        seed=seed, width=width, point=f"{method}{width}{setup}", setup=setup,
        panel=panel, numbers=numbers, num_images=NUM_IMAGES,
    )  # fmt: skip


@pytest.fixture
def runs():
    draw = np.random.default_rng(1)
    found = [
        made(method, width, seed, distance=10 * at + seed, good=at + seed, odd=int(odd))
        for (at, (method, width)), odd in zip(
            enumerate(itertools.product(METHODS, WIDTHS)),
            draw.permutation(len(METHODS) * len(WIDTHS)),
            strict=True,
        )
        for seed in (0, 1)
    ]
    return [*found, made("AE", 8, setup="other", distance=1, good=2, odd=3)]


@pytest.mark.parametrize(
    ("count", "known"), [(7, 0.786), (10, 0.648), (12, 0.587), (20, 0.447)]
)
def test_limits_are_those_of_tables(count, known):
    assert limit(count) == pytest.approx(known, abs=0.012)


def test_no_size_of_four_points_is_rare():
    assert limit(4) == limit(1) == np.inf
    assert limit(5) == pytest.approx(1)  # 2 of 120 orders


def test_a_point_is_the_mean_of_its_seeds_and_of_one_setup(runs):
    points = largest_setup(runs)
    assert len(points) == 12
    assert {point.num_seeds for point in points} == {2}
    first = next(point for point in points if point[:3] == ("AE", "8", 8))
    assert first.at("good", 2000) == 0.5
    assert first.at("FD-scenes", 2000) == 0.5 / 2000
    assert first.at("channels", 2000) == 8
    assert first.at("MIND", 2000) is None
    assert budgets_of(points) == [2000, 6000]
    # PSNR ranks as channels do here, and so does the flow loss as "odd".
    assert predictors(points, 6000) == ["good", "odd", "PSNR"]
    # Of one width, channels and PSNR, which depends on them alone here, are constant.
    narrow = [point for point in points if point.width == 8]
    assert predictors(narrow, 6000) == ["good", "odd"]
    # Ranks are not those of one estimator where some covariances alone are whole.
    ranks = [p._replace(numbers={**p.numbers, "effective rank": -p.numbers["good"]})
             for p in narrow]  # fmt: skip
    assert "effective rank" in predictors(ranks, 6000)
    ranks[0].numbers["VIV exact, classes pooled"] = 1.0
    assert uncomparable(ranks) == ["effective rank"]
    assert "effective rank" not in predictors(ranks, 6000)
    with pytest.raises(ValueError, match="no finished run"):
        largest_setup([])


def test_a_training_under_two_names_counts_once(runs):
    first = runs[0]  # of a point with two runs
    numbers = {name: of for name, of in first.numbers.items() if "6000" in name}
    copy = dataclasses.replace(first, hash="c", point="c", method="C", numbers=numbers)
    other = dataclasses.replace(copy, hash="o", seed=7)
    assert without_copies([copy, *runs]) == runs
    assert without_copies([*runs, other]) == [*runs, other]
    assert without_copies([]) == []


def test_what_orders_all_points_predicts_and_chance_does_not(runs):
    points = largest_setup(runs)
    good = correlation(points, "good", "FD-scenes", 6000)
    assert good.predicts
    assert good[:4] == (1, 1, 1, (1, 1))
    assert correlation(points, "good", "class accuracy", 6000).value == -1
    odd = correlation(points, "odd", "FD-scenes", 6000)
    pairs = [(point.at("odd", 0), point.at("FD-scenes", 6000)) for point in points]
    assert odd.value == pytest.approx(spearmanr(pairs).statistic)
    assert odd.low < odd.value < odd.high
    assert odd.without[0] < odd.value < odd.without[1]
    assert not odd.predicts


def test_a_correlation_that_one_method_makes_does_not_predict(runs):
    # AE is far below all others, among which the number says nothing.
    order = [3, 1, 2, 9, 6, 4, 8, 5, 7, 12, 10, 11]
    points = [
        point._replace(numbers={"number": n - 10 * (point.method == "AE"),
                                "FD-scenes @1": place - 20 * (point.method == "AE")})
        for n, place, point in zip(order, range(12), largest_setup(runs), strict=True)
    ]  # fmt: skip
    whole = correlation(points, "number", "FD-scenes", 1)
    assert whole.value > limit(12)
    assert whole.without[0] < limit(9)
    assert not whole.predicts


def test_a_constant_number_correlates_with_nothing(runs):
    points = [
        point._replace(numbers={"same": 1.0, "FD-scenes @1": float(at)})
        for at, point in enumerate(largest_setup(runs))
    ]
    same = correlation(points, "same", "FD-scenes", 1)
    assert np.isnan(same.value)
    assert not same.predicts


def test_a_report_is_drawn_again_from_its_records(runs, tmp_path):
    sentences = write_prediction_report(runs, tmp_path / "first", "python x")
    assert sentences[0].startswith("12 points of 4 methods")
    assert "of 24 runs. Left out" in sentences[0]
    assert sentences[0].endswith("are others: 1 runs.")
    assert "AE 8, 16, 32; PCA 8, 16, 32" in sentences[0]
    assert sentences[2].startswith("FD-scenes after 2000 steps is predicted by: good")
    text = (tmp_path / "first" / "report.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {8}
    assert table[2].startswith("| good | **+1.00** | **+1.00** | **-1.00** |")
    records = tmp_path / "first" / "panel.json"
    # Runs of two machines are joined, and one that both have counts once.
    write_runs(runs[-3:], tmp_path / "other.json")
    again = read_runs([records, tmp_path / "other.json"])
    assert again == runs
    write_prediction_report(again, tmp_path / "second", "python x")
    for name in ("report.md", "predict_generation.png"):
        first, second = (
            (tmp_path / n / name).read_bytes() for n in ("first", "second")
        )
        assert first == second
    (tmp_path / "bad.json").write_text("[{}]")
    with pytest.raises(ValueError, match=r"^`--reuse-results` \(.*bad.json\) must be"):
        read_runs([tmp_path / "bad.json"])


def test_runs_that_reconstruct_badly_are_left_out(runs):
    with pytest.raises(ValueError, match=r"^`--max-rfd` \(5\) .* AE 8 has none"):
        near_reconstructions(runs, 5)
    far = [run for run in runs if run.method == "noise"]
    runs = [
        dataclasses.replace(
            run, numbers={**run.numbers, "rFD-scenes": 9.0 if run in far else 5.0}
        )
        for run in runs
    ]
    near, dropped = near_reconstructions(runs, 5)
    assert [run.method for run in dropped] == ["noise"] * 6
    assert [*near, *dropped] == sorted(runs, key=lambda run: run.method == "noise")


@pytest.mark.parametrize("other", [dict(num_images=500), dict(version=0)])
def test_panels_of_other_images_or_another_version_are_refused(runs, tmp_path, other):
    path = tmp_path / "panel.json"
    write_runs([runs[0], dataclasses.replace(runs[1], **other)], path)
    with pytest.raises(ValueError, match=r"^`--reuse-results` \(AE 8, .* 3000 images"):
        read_runs([path])


def test_seeds_and_budgets_make_no_other_point():
    specs = [run(SMOKE, "PCA rotated", "x", seed) for seed in (0, 1)]
    budgets = (1, *specs[1].budgets)
    specs[1] = dataclasses.replace(specs[1], budgets=budgets)
    first, second = map(without_seed, specs)
    assert first == second
    assert without_seed(run(SMOKE, "AE", "x", 1)) != second


def test_a_panel_is_kept_until_its_tokenizer_changes(row, tmp_path, monkeypatch):
    spec, paths = run(SMOKE, "PCA rotated", "x", 0), RunPaths(tmp_path)
    folder = paths.result(spec)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(as_json(spec))
    last = spec.budgets[-1]
    result = row(
        spec, 4.0, **{f"FD-scenes @{last}": 4.0, f"flow loss @{last}": 0.5}
    ).result
    dataclasses.replace(result, feature_hash=scene_network_hash()).write(folder)
    newer = paths.root / "results" / "newer"
    newer.mkdir()
    (newer / "result.json").write_text("{}")
    (newer / "spec.json").write_text('{"option": 1}')
    with pytest.warns(UserWarning, match=r"newer/spec.json is left out: .*option"):
        assert finished_specs(paths) == [spec]
    diagnosed, weights = [], {"hash": "a"}

    def diagnose(*arguments):
        diagnosed.append(weights["hash"])
        return {"panel": {"VIV": 1.0}, "flow losses": {f"flow loss @{last}": 0.25}}

    monkeypatch.setattr(prediction, "load", lambda path: None)
    monkeypatch.setattr(prediction, "weights_hash", lambda _: weights["hash"])
    monkeypatch.setattr(prediction, "_diagnose", diagnose)
    found = diagnosed_run(spec, paths, 48)
    assert found.panel == {"VIV": 1.0}
    # What the run itself measured comes before what is computed again.
    loss, distance = (f"{name} @{last}" for name in ("flow loss", "FD-scenes"))
    assert found.numbers == {loss: 0.5, distance: 4.0}
    assert diagnosed_run(spec, paths, 48) == found
    assert diagnosed == ["a"]
    weights["hash"] = "b"
    diagnosed_run(spec, paths, 48)
    diagnosed_run(spec, paths, 96)
    assert diagnosed == ["a", "b", "b"]
    # Measured with another network: its distances have another scale.
    content = json.loads((folder / "result.json").read_text())
    text = json.dumps({**content, "feature_hash": "another"})
    (folder / "result.json").write_text(text)
    assert diagnosed_run(spec, paths, 48) is None
