import pytest

from experiments import scale_latents
from experiments.scale_encoder import plan
from vtp_eqx.study.summary import (
    baseline_sentences,
    control_sentences,
    convergence_sentence,
    frontier_sentences,
    ranking_sentences,
    trend_sentence,
)
from vtp_eqx.study.table import Row


@pytest.fixture(scope="module")
def specs():
    return plan("smoke", [0])


@pytest.mark.parametrize(
    ("vtp", "word"),
    [
        ((4.0, 7.9, 3.0), "better"),  # by 1, 1.1 and 1
        ((6.0, 10.1, 4.9), "worse"),
        ((4.9, 7.0, 3.9), "no significant difference"),  # of one sign: .1, 2, .1
        ((4.0, 9.5, 3.0), "no significant difference"),
    ],
)
def test_a_difference_is_one_beyond_chance(row, vtp, word):
    specs = plan("smoke", [0, 1, 2])
    distance = {"AE": (5.0, 9.0, 4.0), "VTP": vtp}
    rows = [row(spec, distance[spec.method][spec.seed]) for spec in specs]
    [sentence] = baseline_sentences(rows, "VTP")
    assert f", {word}, class right" in sentence


def test_one_seed_gives_no_verdict(row, specs):
    distance = {"AE": 5.0, "VTP": 1.0}
    rows = [row(spec, distance[spec.method]) for spec in specs]
    [sentence] = baseline_sentences(rows, "VTP")
    assert "1.0 against 5.0, one seed, class right +0.0 points" in sentence
    assert baseline_sentences(rows[:1], "VTP") == []
    # Nor do two, whatever their interval.
    distance = {"AE": 5.0, "VTP": 1.0}
    rows = [row(spec, distance[spec.method]) for spec in plan("smoke", [0, 1])]
    [sentence] = baseline_sentences(rows, "VTP")
    assert "1.0 against 5.0, two seeds" in sentence


def test_methods_are_ranked_by_their_means(row):
    specs = plan("smoke", [0, 1])
    distance = {"AE": (5.0, 7.0), "VTP": (4.0, 7.0)}
    rows = [row(spec, distance[spec.method][spec.seed]) for spec in specs]
    fd, labels = ranking_sentences(rows)
    assert fd.startswith("FD-scenes of two seeds, lowest first (real scenes have ")
    assert fd.endswith("): VTP 5.5, AE 6.0.")
    assert labels.startswith("Class right, highest first: ")
    assert ranking_sentences([Row(specs[0], None)]) == []
    # A seed that AE alone has does not count.
    fd, _ = ranking_sentences(rows[:-1])
    assert fd.startswith("FD-scenes of one seed, lowest first")
    assert fd.endswith("): VTP 4.0, AE 5.0.")
    assert ranking_sentences([rows[0], rows[-1]]) == []


def test_a_trend_is_from_the_first_setting_to_the_last(row):
    specs = plan("laptop", [0, 1])
    order = [spec.setting for spec in specs[::2]]
    rows = [
        row(spec, 9.0 - order.index(spec.setting) * (spec.method == "VTP"))
        for spec in specs
    ]
    [sentence] = trend_sentence(rows, ("AE", "VTP"), "encoder size")
    assert "AE: FD-scenes +0.0" in sentence
    expected = "VTP: FD-scenes -2.0, PSNR +0.0 dB from 48x3 to 144x3 (two seeds)."
    assert sentence.endswith(expected)
    assert trend_sentence(rows[:2], ("AE", "VTP"), "encoder size") == []


def test_a_trend_names_a_lowest_distance_between_its_ends(row):
    distances = {"48x3": 9.0, "96x3": 7.0, "144x3": 8.0}
    rows = [
        row(spec, distances[spec.setting])
        for spec in plan("laptop", [0])
        if spec.method == "AE"
    ]
    [sentence] = trend_sentence(rows, ["AE"], "encoder size")
    assert sentence.endswith("from 48x3 to 144x3 (one seed), lowest 7.0 at 96x3.")


def test_at_equal_pixels_the_baseline_is_read_off_its_curve(row):
    specs = plan("laptop", [0])
    # AE: 20, 24, 28 dB at 4, 6, 8; VTP: 22 dB at 3, that is 2 below the curve at 5.
    pixels = {"48x3": 20.0, "96x3": 24.0, "144x3": 28.0}
    rows = []
    for spec in specs:
        psnr = pixels[spec.setting]
        if spec.method == "AE":
            rows.append(row(spec, psnr / 2 - 6, PSNR=psnr))
        elif spec.setting == "48x3":
            rows.append(row(spec, 3.0, PSNR=22.0))
        else:
            rows.append(row(spec, 3.0, PSNR=99.0))  # beyond the curve
    [sentence] = frontier_sentences(rows, "VTP", "AE")
    assert "by 48x3 (22.0 dB, one seed): +2.0 (negative" in sentence
    [sentence] = frontier_sentences(rows, "AE", "VTP")
    assert "AE is lower than that of VTP by 96x3 (24.0 dB, one seed): -3.0" in sentence
    # Two seeds, ahead by 2 and by 4: 3 in the mean, of a deviation of 1.41.
    for spec in plan("laptop", [1]):
        psnr = pixels[spec.setting]
        if spec.method == "AE":
            rows.append(row(spec, psnr / 2 - 6, PSNR=psnr))
        elif spec.setting == "48x3":
            rows.append(row(spec, 1.0, PSNR=22.0))
    [sentence] = frontier_sentences(rows, "VTP", "AE")
    assert "by 48x3 (22.0 dB, two seeds): +3.0, 2.1 deviations of seeds (" in sentence


def test_steps_to_the_end_of_another_are_paired_by_seed(converging):
    # 4 is reached between 2 and 4 steps where a distance falls from 8 to 2 there: at
    # their geometric mean, 2.83.
    rows = converging([0, 1], {
        "AE": [(9.0, 6.0, 4.0), (9.0, 6.0, 3.0)],
        "VTP": [(8.0, 2.0, 1.0), (9.0, 8.0, 7.0)],
        "distilled": [(3.5, 2.0, 2.0), (7.0, 3.0, 2.0)],
    })  # fmt: skip
    [sentence] = convergence_sentence(rows, "AE")
    assert sentence == (
        "Generator steps to the FD-scenes that AE of the same seed has after 6: "
        "VTP 3 (2.1 times as fast), in 1 of 2 seeds; "
        "distilled at most 2 to 4 (1.5 to 3.0 times as fast)."
    )
    assert "AE not reached" in convergence_sentence(rows[:3], "VTP")[0]
    assert convergence_sentence(rows[:2], "AE") == []


def test_a_lead_stands_beside_the_best_control_and_what_is_missing(row):
    """Distances by hand: of 64 channels noise is the best that learns no semantics."""
    distances = {"AE": 20.0, "AE noise 0.2": 18.0, "PCA": 19.0, "VTP": 15.0}
    specs = [
        spec
        for spec in scale_latents.plan("laptop", [0, 1], controls=True)
        if spec.setting in ("16", "64") and spec.labels == "class"
    ]
    wide = [spec for spec in specs if spec.setting == "64"]
    rows = [
        row(spec, distances[spec.method] + spec.seed)
        for spec in wide
        if spec.method in distances
    ]
    best, needed = control_sentences(rows, "VTP")
    assert best == (
        "The lowest FD-scenes without semantics, and by how much VTP lies below it "
        "(negative: above): 64: AE noise 0.2 18.5, of 3 methods, +3.0 (two seeds)."
    )
    assert needed.endswith(
        "(noise, masked patches, fewer channels): masked patches, fewer channels "
        "missing."
    )
    for method, setting in (("AE masked", "64"), ("AE", "16")):
        found = next(s for s in specs if (s.method, s.setting) == (method, setting))
        rows.append(row(found, 30.0))
    assert control_sentences(rows, "VTP")[1].endswith("fewer channels): all finished.")
    # Another semantic method is no control, and without a rival there is no sentence.
    semantic = [row(spec, 1.0) for spec in wide if spec.method in ("VTP", "CLIP+AE")]
    assert control_sentences(semantic, "VTP") == []
