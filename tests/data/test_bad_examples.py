import json

from hypothesis import given, strategies as st
import pytest

from vtp_eqx.data.bad_examples import BadExample, BadExampleLog, read_bad_examples


def bad(step, *, skipped=True, position=0):
    return BadExample(step, position, 7, f"0.tar/{step}", "cut", skipped)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bad_examples_are_logged_by_name(tmp_path):
    path = tmp_path / "run" / "bad_examples.jsonl"
    log = BadExampleLog(path)
    log.add(0, 8, [bad(0), bad(0, skipped=False)])
    log.add(1, 8, [])
    log.add(2, 8, [bad(2, position=5)])
    log.close()
    assert [line["name"] for line in lines(path)] == ["0.tar/0", "0.tar/0", "0.tar/2"]
    assert lines(path)[2] == {
        "step": 2, "position": 5, "row": 7, "name": "0.tar/2", "reason": "cut",
        "skipped": True,
    }  # fmt: skip


@given(stop=st.integers(0, 12), start=st.integers(0, 12), torn=st.integers(0, 30))
def test_a_continued_log_is_that_of_a_run_that_never_stopped(
    tmp_path_factory, stop, start, torn
):
    start = min(start, stop)
    folder = tmp_path_factory.mktemp("log")

    def run(name, first, last):
        log = BadExampleLog(folder / name, start_step=first)
        for step in range(first, last):
            log.add(step, 64, [bad(step)] * (step % 3))
        log.close()
        return len(log._recent)

    whole = run("whole", 0, 12)
    run("killed", 0, stop)
    content = (folder / "killed").read_bytes()
    # A kill tears the last line, of a step behind the checkpoint.
    cut = sum(len(line) + 1 for line in content.splitlines() if _step(line) < start)
    (folder / "killed").write_bytes(content[: max(cut, len(content) - torn)])
    assert run("killed", start, 12) == whole
    assert (folder / "killed").read_bytes() == (folder / "whole").read_bytes()


def _step(line):
    return json.loads(line)["step"]


def test_bad_examples_are_read_up_to_a_torn_line(tmp_path):
    path = tmp_path / "bad_examples.jsonl"
    log = BadExampleLog(path)
    log.add(4, 8, [bad(4), bad(4, position=1)])
    log.close()
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        assert list(read_bad_examples(path)) == [bad(4)]
    path.write_bytes(whole)
    assert list(read_bad_examples(path)) == [bad(4), bad(4, position=1)]


def test_a_rate_above_the_limit_stops_with_the_name(tmp_path):
    log = BadExampleLog(tmp_path / "a", max_skip_rate=0.1)
    for step in range(3):  # too few to judge
        log.add(step, 64, [bad(step)] * 32)
    with pytest.raises(ValueError, match=r"128 of the last 256 .*0.tar/3.* \(10.0%\)"):
        log.add(3, 64, [bad(3)] * 32)
    log.close()


def test_the_rate_is_that_of_the_last_examples(tmp_path):
    log = BadExampleLog(tmp_path / "a", max_skip_rate=0.25)
    for step in range(1000):
        log.add(step, 64, [])
    for step in range(1000, 1032):  # half of 32 steps are a quarter of 64
        log.add(step, 64, [bad(step)] * 32)
    with pytest.raises(ValueError, match="1056 of the last 4096"):
        log.add(1032, 64, [bad(1032)] * 32)
    log.close()
    log = BadExampleLog(tmp_path / "b", max_skip_rate=0.0)
    for step in range(5):
        log.add(step, 64, [bad(step, skipped=False)])
    with pytest.raises(ValueError, match=r"^1 of"):
        log.add(5, 64, [bad(5)])
    log.close()


def test_a_continued_run_knows_the_rate_before(tmp_path):
    log = BadExampleLog(tmp_path / "a", max_skip_rate=0.5)
    for step in range(8):
        log.add(step, 64, [bad(step)] * 32)
    log.close()
    log = BadExampleLog(tmp_path / "a", start_step=8, max_skip_rate=0.5)
    with pytest.raises(ValueError, match="289 of the last 576"):
        log.add(8, 64, [bad(8)] * 33)
    log.close()


def test_a_rate_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`max_skip_rate` \(1\.5\)"):
        BadExampleLog(tmp_path / "a", max_skip_rate=1.5)


def test_logs_written_before_positions_had_that_name_are_read(tmp_path):
    path = tmp_path / "remarks.jsonl"
    path.write_text(
        '{"step": 2, "place": 5, "row": 7, "name": "0.tar/2", "reason": "cut", '
        '"skipped": true}\n'
    )
    assert list(read_bad_examples(path)) == [bad(2, position=5)]
