import pytest

from experiments import compare_objectives, scale_encoder
from vtp_eqx.study.findings import (
    objective_findings,
    scaling_findings,
)
from vtp_eqx.study.table import Row


@pytest.fixture(scope="module")
def points():
    return scale_encoder.plan("smoke", [0])


def test_where_a_method_is_behind_is_said_first(row):
    points = scale_encoder.plan("laptop", [0, 1])
    first = points[0].size
    distance = lambda point: (
        5.0 if point.method == "AE" else 4.0 if point.size == first else 6.0
    )
    # Pairs differ by a little, so that a lead has a spread.
    some = lambda point: 0.01 * point.seed * (point.method == "AE")
    lines = scaling_findings([row(one, distance(one) + some(one)) for one in points])
    assert "behind AE" in lines[0]
    assert "behind AE" in lines[1]
    assert "ahead of AE" in lines[2]
    [turns] = [line for line in lines if line.startswith("VTP beside AE")]
    assert f"ahead of it at {first}" in turns


def test_one_pair_gives_no_verdict(points, row):
    distance = {"AE": 5.0, "VTP": 1.0}
    lines = scaling_findings([row(point, distance[point.method]) for point in points])
    assert "VTP is compared by one pair with AE" in lines[0]
    assert "lead +4.00" in lines[0]
    assert not any("ahead" in line or "behind" in line for line in lines)


def test_without_a_shared_seed_nothing_is_compared(row):
    points = scale_encoder.plan("laptop", [0, 1])
    first = points[0].size
    apart = lambda one: one.size == first or (one.method == "AE") == (one.seed == 0)
    lines = scaling_findings([row(point, 3.0) for point in points if apart(point)])
    [compared] = [line for line in lines if " AE in FD-scenes" in line]
    assert compared.startswith(first)
    assert not any("beside AE" in line for line in lines)


def test_what_is_said_of_pairs_is_of_their_runs_alone(row):
    points = scale_encoder.plan("smoke", [0, 1])
    distance = {("AE", 0): 5.0, ("AE", 1): 9.0, ("VTP", 0): 6.0}
    rows = [
        row(point, distance[point.method, point.seed])
        for point in points
        if (point.method, point.seed) in distance
    ]
    [line] = [line for line in scaling_findings(rows) if " AE in FD-scenes" in line]
    assert "6.00 against 5.00 (lead -1.00)" in line


def test_intervals_are_counted(row):
    points = compare_objectives.plan("laptop", [0, 1])
    rows = [row(point, 3.0 + point.seed / 8) for point in points]
    [line] = [line for line in objective_findings(rows) if "holds for itself" in line]
    # Of equal compute there is one seed, and one pair has no interval.
    compared = {one.method for one in points if one.seed == 1} - {"AE"}
    assert f"these {2 * len(compared)} intervals" in line
    lines = objective_findings(rows[::2])  # one seed alone
    assert not any("intervals" in line for line in lines)


@pytest.mark.parametrize(
    ("vtp", "word"),
    [
        ((4.0, 7.9, 3.0), "ahead of"),  # leads 1, 1.1, 0.9
        ((6.0, 10.1, 4.9), "behind"),
        ((4.9, 7.0, 3.9), "not to be told from"),  # leads of one sign, 0.1, 2, 0.1
        ((4.0, 9.5, 3.0), "not to be told from"),
    ],
)
def test_seeds_are_compared_in_pairs_beyond_chance(row, vtp, word):
    points = scale_encoder.plan("smoke", [0, 1, 2])
    # Seeds differ for both by more than what separates the methods.
    distance = {"AE": (5.0, 9.0, 4.0), "VTP": vtp}
    rows = [row(point, distance[point.method][point.seed]) for point in points]
    assert f"VTP is {word} AE" in scaling_findings(rows)[0]


def test_without_two_pairs_there_is_said_to_be_no_spread(points, row):
    alone = [one for one in scale_encoder.plan("smoke", [0, 1]) if one.method == "AE"]
    for some in (points, alone):
        lines = scaling_findings([row(point, 3.0) for point in some])
        assert any("No method has two seeds in pairs" in line for line in lines)


def test_the_scatter_of_leads_is_that_of_pairs(row):
    points = scale_encoder.plan("smoke", [0, 1])
    # What both methods share of a seed is no scatter: leads are 1 and 3.
    distance = {"AE": (3.0, 13.0), "VTP": (2.0, 10.0)}
    rows = [row(point, distance[point.method][point.seed]) for point in points]
    [line] = [line for line in scaling_findings(rows) if "standard deviation" in line]
    assert f"of {2**0.5:.2f} " in line


def test_runs_that_are_missing_are_counted(points, row):
    lines = scaling_findings([row(points[0], 3.0), Row(points[1], None)])
    assert "1 of 2 runs are not finished" in lines[0]


def test_before_the_first_result_there_is_nothing_to_say(points):
    for findings in (scaling_findings, objective_findings):
        assert findings([Row(point, None) for point in points]) == [
            "Nothing is finished yet."
        ]


def test_methods_are_ordered_and_what_goes_with_generation_is_found(row):
    points = compare_objectives.plan("laptop", [0])
    rows = [
        row(point, 10.0 - place, **{"probe latents mean": place / 100, "PSNR": -place})
        for place, point in enumerate(points)
    ]
    lines = objective_findings(rows)
    [order] = [line for line in lines if line.startswith("equal samples, best")]
    assert order.index("random encoder") < order.index("CLIP+AE") < order.index("AE 10")
    [line] = [line for line in lines if line.startswith("Rank correlation of FD")]
    assert "probe of latents -1.00 (-1.00 to -1.00)" in line
    assert "PSNR +1.00" in line


def test_runs_of_two_groups_count_once_in_a_correlation(row):
    points = compare_objectives.plan("laptop", [0, 1, 2])
    rows = [row(point, 3.0 + place) for place, point in enumerate(points)]
    # VTP of equal compute is VTP of equal samples, with a seed less.
    groups = {(point.method, point.size) for point in points}
    lines = [line for line in objective_findings(rows) if "Rank correlation" in line]
    assert all(f"means of {len(groups) - 1} points" in line for line in lines)
    assert len(lines) == 2
