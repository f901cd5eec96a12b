import json

from vtp_eqx.data.bad_examples import BadExample, BadExampleLog
from vtp_eqx.runs.pretrain_results import write_report


def test_the_report_says_what_went_wrong_and_shows_the_last_pictures(tmp_path):
    line = {"step": 9, "total": 0.25, "num_skipped": 3, "rollbacks": 1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    for process, kinds in enumerate([(True, False), (True,)]):
        log = BadExampleLog(tmp_path / f"bad_examples-{process}.jsonl")
        log.add(
            3, 64, [BadExample(3, 0, 7, "0.tar/7", "cut", skipped) for skipped in kinds]
        )
        log.close()
    with (tmp_path / "bad_examples-1.jsonl").open("a") as file:
        file.write('{"step": 4, "pla')  # torn by a kill
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("curves", "reconstructions-0000100", "reconstructions-0000200"):
        (figures / f"{name}.png").write_bytes(b"")
    write_report(tmp_path, {"psnr": 21.5}, command="python x.py", text="9 steps.")
    text = (tmp_path / "report.md").read_text()
    assert "2 unreadable examples, 1 repaired, 3 steps skipped, 1 rollbacks." in text
    assert "(figures/reconstructions-0000200.png)" in text
    assert "reconstructions-0000100" not in text
    assert "| psnr | 21.5 |" in text
    assert "| total | 0.25 |" in text
