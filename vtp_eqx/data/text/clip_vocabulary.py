"""Finding the published CLIP vocabulary, which is not part of this package.

OpenAI published it with CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020)
under the MIT license. The package open_clip_torch has the same file, and can be
installed without what it depends on (torch): it is never imported here.
"""

import gzip
import hashlib
import http.client
import importlib.util
import os
from pathlib import Path
import urllib.request

from vtp_eqx.config import require
from vtp_eqx.file_kinds import describe_content
from vtp_eqx.files import atomic_path, cache_folder


NAME = "bpe_simple_vocab_16e6.txt.gz"
ADDRESS = f"https://raw.githubusercontent.com/openai/CLIP/main/clip/{NAME}"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
VARIABLE = "VTP_CLIP_VOCABULARY"
_TIMEOUT = 5.0  # seconds without an answer: offline is said at once, not after retries
_SUPPLY = (
    "`pip install --no-deps open_clip_torch`, a package that has the file, or get "
    f"{ADDRESS} (sha256 {SHA256}) and set {VARIABLE} to its path"
)


def find_vocabulary() -> Path:
    """The path of the vocabulary file: the first that exists of four places.

    The path in the environment variable `VTP_CLIP_VOCABULARY`; the file of an installed
    open_clip; a file downloaded before, in `$XDG_CACHE_HOME/vtp_eqx` or
    `~/.cache/vtp_eqx`; a download to there.

    Raises `FileNotFoundError` where the variable names no file, or where nothing is
    found and the download fails, saying how to supply the file.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise FileNotFoundError(
                f"The CLIP vocabulary must be a file; got {named!r}, which is none: "
                f"{_SUPPLY}."
            )
        return Path(named)
    package = importlib.util.find_spec("open_clip")
    if package and package.origin:
        installed = Path(package.origin).with_name(NAME)
        if installed.is_file():
            return installed
    caches = cache_folder()
    if caches is None:
        raise FileNotFoundError(
            f"The CLIP vocabulary {NAME} must be at hand; it was not found, and there "
            f"is no home folder to download it to: {_SUPPLY}."
        )
    cached = caches / NAME
    if not cached.is_file():
        _download(cached)
    return cached


def read_vocabulary() -> list[str]:
    """The lines of the file that `find_vocabulary` finds: a header, then merges.

    Raises `FileNotFoundError` as `find_vocabulary` does, and `ValueError` where the
    file is not the published one to the last bit.
    """
    found = find_vocabulary()
    content = found.read_bytes()
    _check(content, str(found))
    return gzip.decompress(content).decode("utf-8").split("\n")


def _download(path: Path) -> None:
    try:
        with urllib.request.urlopen(ADDRESS, timeout=_TIMEOUT) as answer:
            content = answer.read()
        _check(content, ADDRESS)
        with atomic_path(path) as unfinished:
            unfinished.write_bytes(content)
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"The CLIP vocabulary {NAME} must be at hand; it was not found, and could "
            f"not be downloaded to {path} ({error}): {_SUPPLY}."
        ) from error


def _check(content: bytes, where: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    require(
        digest == SHA256,
        f"The CLIP vocabulary must be the published file, whole; got {len(content)} "
        f"bytes ({describe_content(content)}) with sha256 {digest} from {where}: "
        f"{_SUPPLY}.",
    )
