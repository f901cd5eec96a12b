"""When the files of a source were last changed, beside its fingerprint.

A `fingerprint` is equal for a copy, so that a run goes on with one. Numbers that were
taken of files are only good for those very files: samples that were made again have the
same names, and often the same sizes.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
import hashlib
import os
from pathlib import Path

import numpy as np

from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.loader import Source
from vtp_eqx.data.mixture import Mixture
from vtp_eqx.data.sources import TfdsSource
from vtp_eqx.data.tars import TarSource


_NUM_THREADS = 16  # ours: a network file system answers each after a while


def last_changes(source: Source) -> str:
    """Twelve hexadecimal digits that change with any file; "" for arrays in memory.

    Of every file its size and its time of change, which no program can set back, and
    which stays when folders are moved.
    """
    digest = hashlib.sha256()
    paths = [*_files(source)]
    if not paths:
        return ""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        blocks = np.array_split(np.array(paths, object), _NUM_THREADS)
        for stamps in pool.map(_stamps, [block.tolist() for block in blocks]):
            digest.update(stamps.encode())
    return digest.hexdigest()[:12]


def _files(source: Source) -> Iterable[str | Path]:
    match source:
        case Mixture():
            return [path for one in source.sources for path in _files(one)]
        case FolderSource():
            return [f"{source.folder}/{name}" for name in source.files]
        case TarSource():
            return source.paths
        case TfdsSource():
            # Beside them, arrays that were read from these files may be kept.
            return sorted(source.folder.glob("*.array_record*"))
    return []


def _stamps(paths: list[str | Path]) -> str:
    lines = []
    for path in paths:
        try:
            status = os.stat(path)
            times = f"{status.st_ctime_ns} {status.st_mtime_ns}"
            lines.append(f"{status.st_size} {times}\n")
        except OSError:
            lines.append("gone\n")
    return "".join(lines)
