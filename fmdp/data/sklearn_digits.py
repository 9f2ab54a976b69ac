"""The images that come with scikit-learn."""

import numpy as np


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's bundled 1,797 handwritten digits: images [n, 8, 8, 1] in [-1, 1] and their classes."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return (bundle.images[..., None] / 8 - 1).astype(np.float32), bundle.target
