import json

from PIL import Image

from vtp_eqx.runs.pictures import draw_curves


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_figure_has_a_panel_for_what_the_log_tells(tmp_path):
    log, figure = tmp_path / "metrics.jsonl", tmp_path / "figures" / "curves.png"
    losses = [{"step": step, "total": 1 / step} for step in (1, 2, 3)]
    write(log, losses)
    draw_curves(log, figure)
    flat = size_of(figure)
    write(log, [*losses, {"step": 4, "probe": 0.5, "psnr": 20.0, "feature_rank": 3.0}])
    draw_curves(log, figure)
    wide, high = size_of(figure)
    assert (wide, high) == (flat[0], 2 * flat[1])


def test_an_empty_log_is_an_empty_figure(tmp_path):
    draw_curves(tmp_path / "none.jsonl", tmp_path / "curves.png")
    assert size_of(tmp_path / "curves.png")[0] > 0
