"""The log of a run as a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vtp_eqx.files import atomic_path
from vtp_eqx.runs.log import read_log


PANELS: Mapping[str, Sequence[str]] = {
    "loss": ("total", "contrast", "distillation", "reconstruction"),
    "accuracy": ("probe", "zero_shot"),
    "reconstruction, dB": ("psnr",),
    "features": ("feature_rank", "prototypes_used"),
    "latents": ("latent_deviation_least", "latent_deviation_mean"),
    "nearest neighbor": ("neighbor_distance",),
}


def draw_curves(
    log: Path, path: Path, panels: Mapping[str, Sequence[str]] = PANELS
) -> None:
    """Draws the named numbers of a `metrics.jsonl` over the steps, a panel a group.

    Panels of which the log has nothing are left out.
    """
    from matplotlib.figure import Figure  # takes a second, and no display

    lines = read_log(log)
    found = {line_name for line in lines for line_name in line}
    drawn = {
        title: [name for name in names if name in found]
        for title, names in panels.items()
        if found & {*names}
    }
    rows = max(1, -(-len(drawn) // 2))
    figure = Figure(figsize=(9, 2.6 * rows), layout="constrained")
    for place, (title, names) in enumerate(drawn.items()):
        axes = figure.add_subplot(rows, 2, place + 1)
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            steps, values = zip(*points, strict=True)
            # A mark where a line of one point would not be seen.
            axes.plot(steps, values, marker="." if len(points) < 30 else "", label=name)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, frameon=False)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
