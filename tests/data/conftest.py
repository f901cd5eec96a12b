import importlib.util
from pathlib import Path

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
