import importlib.util
import io
from pathlib import Path
import tarfile

import numpy as np
from PIL import Image
import pytest


@pytest.fixture(scope="session")
def photograph():
    """A picture with edges, textures and smooth places, 90 high and 120 wide."""
    down, across = np.mgrid[0:90, 0:120] / 90
    sky = np.stack([0.4 + 0.3 * down, 0.6 + 0.2 * down, 0.9 - 0.2 * down], axis=-1)
    ground = np.stack([0.3 + 0 * down, 0.4 + 0.1 * across, 0.2 + 0 * down], axis=-1)
    ground += 0.2 * np.random.default_rng(0).random((90, 120, 1))
    hill = down > 0.6 + 0.1 * np.sin(7 * across)
    sun = (down - 0.25) ** 2 + (across - 1) ** 2 < 0.02
    picture = np.where(hill[..., None], ground, sky)
    picture = np.where(sun[..., None], [1.0, 0.9, 0.6], picture)
    return Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8))


@pytest.fixture(scope="session")
def photographs():
    """The paths of the two photographs that scikit-learn ships, 427 high, 640 wide."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        pytest.skip("the photographs of scikit-learn: pip install -e '.[test]'")
    folder = Path(found.origin).parent / "datasets" / "images"
    return [folder / "china.jpg", folder / "flower.jpg"]


@pytest.fixture(scope="session")
def encoded():
    """A function from a number to an encoded image whose color tells it."""

    def encode(value=0, kind="JPEG", shape=(24, 32)):
        pixels = np.empty((*shape, 3), np.uint8)
        pixels[:] = (value % 256, 40 + value // 256, 128)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, kind)
        return content.getvalue()

    return encode


@pytest.fixture(scope="session")
def captioned(encoded):
    """A function to the members of `count` examples, with captions and labels."""

    def members(start, count):
        found = {}
        for value in range(start, start + count):
            found[f"{value:06d}.jpg"] = encoded(value)
            found[f"{value:06d}.json"] = b'{"label": %d}' % (value % 7)
            found[f"{value:06d}.txt"] = f"picture {value}".encode()
        return found

    return members


@pytest.fixture(scope="session")
def write_tar():
    """A function that writes members by name to a tar, in their order."""

    def write(path, members, form=tarfile.USTAR_FORMAT):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=form) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write
