import pytest

from benchmarks.survive import survive


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_ends_as_one_that_is_not(tmp_path):
    verdict = survive(tmp_path, 3, model="line")
    assert len({kill.moment for kill in verdict.kills}) == 3
    assert verdict.same_state
    assert verdict.same_log
    assert verdict.same_files
    assert 0 <= verdict.goodput < 1
    assert not verdict.wrong_steps
