"""One point in a process of its own.

python -m vtp_eqx.study.worker ROOT FOLDER STUDY [CORE]
"""

import json
import os
from pathlib import Path
import signal
import sys
import threading
import time

from vtp_eqx.config import from_dict
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.point import Places, Point
from vtp_eqx.study.progress import Reporter
from vtp_eqx.study.schedule import SECONDS_TO_SAVE
from vtp_eqx.study.stages import run_point


def main(root: str, folder: str, study: str, core: str | None = None) -> None:
    """Runs the point described by `point.json` in `folder`, on one core if given.

    Ends with the process `study` that started it, however that ended: a worker that
    went on alone would be in the way of the next call.
    """
    watch = threading.Thread(target=_end_after, args=[int(study)], daemon=True)
    watch.start()
    commit()  # of what is being run, wherever the checkout goes meanwhile
    if core is not None:
        # Before the first computation: XLA makes as many threads as it sees cores.
        os.sched_setaffinity(0, {int(core)})
    point = from_dict(Point, json.loads((Path(folder) / "point.json").read_text()))
    run_point(point, Places(Path(root)), Reporter(Path(folder) / "progress.json"))


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
