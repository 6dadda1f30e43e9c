"""The embedded data sets: scikit-learn's handwritten digits (8x8, 1,797 images) in six domains.

``clean`` is the original; each other domain is one mild change of every image, so that a model of clean
digits is not quite lost on it and training on it helps. The underlying images are cut once into train,
validation and test, the same in all domains: no test image of one domain is a training image of another,
however turned.

Everything is deterministic: the cut and the noise come from fixed seeds of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_SIZES = {"train": 1200, "validation": 200, "test": 397}
_SEED = 20240501
_ROTATION_DEGREES = 20.0
_BLUR_PIXELS = 0.9
_SHIFT_PIXELS = (0.5, 0.5)
_NOISE = 0.25
_SHEAR = 0.3


def make(domain: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images, uint8 (N, 8, 8), and labels, int64 (N,), of each split of a domain."""
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = _DOMAINS[domain](bunch.images / 16.0)  # 0..1
    pixels = np.round(np.clip(images, 0.0, 1.0) * 255).astype(np.uint8)
    order = np.random.RandomState(_SEED).permutation(
        len(pixels)
    )  # RandomState: a stream frozen by NumPy's policy
    splits, start = {}, 0
    for split, size in _SIZES.items():
        rows = order[start : start + size]
        splits[split] = (pixels[rows], bunch.target[rows].astype(np.int64))
        start += size
    return splits


def _clean(images: np.ndarray) -> np.ndarray:
    return images


def _rotation(images: np.ndarray) -> np.ndarray:
    """Turn counter-clockwise."""
    from scipy import ndimage

    turned: np.ndarray = ndimage.rotate(images, _ROTATION_DEGREES, axes=(2, 1), reshape=False, order=1)
    return turned


def _blur(images: np.ndarray) -> np.ndarray:
    """Gaussian, standard deviation in pixels."""
    from scipy import ndimage

    blurred: np.ndarray = ndimage.gaussian_filter(images, sigma=(0.0, _BLUR_PIXELS, _BLUR_PIXELS))
    return blurred


def _shift(images: np.ndarray) -> np.ndarray:
    """Move down and right."""
    from scipy import ndimage

    moved: np.ndarray = ndimage.shift(images, (0.0, *_SHIFT_PIXELS), order=1)
    return moved


def _noise(images: np.ndarray) -> np.ndarray:
    """Gaussian noise, of 1 = the whole range."""
    import numpy as np

    return images + _NOISE * np.random.RandomState(_SEED + 1).standard_normal(images.shape)


def _shear(images: np.ndarray) -> np.ndarray:
    """Slant to the right, around the middle row."""
    import numpy as np
    from scipy import ndimage

    middle = (images.shape[1] - 1) / 2
    matrix = np.array([[1.0, 0.0], [_SHEAR, 1.0]])
    offset = np.array([0.0, -_SHEAR * middle])
    return np.stack([ndimage.affine_transform(image, matrix, offset=offset, order=1) for image in images])


_DOMAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "clean": _clean,
    "rotation": _rotation,
    "blur": _blur,
    "shift": _shift,
    "noise": _noise,
    "shear": _shear,
}
