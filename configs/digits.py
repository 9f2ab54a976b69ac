"""Handwritten digits, 8x8: scikit-learn's bundled images and a residual MLP.

python -m fmdp.main --config=configs/digits.py

Expected time on two CPU cores: 145 s of training, 30 s of measuring.
Expected scores at noise levels .3 / .5 / .7: MSE per pixel .039 / .106 / .232 at t = s and .041 / .122 / .328 at t = 1,
variance ratio at t = 1 1.00 / .97 / .95 (from run to run within .02), MMD^2 at t = 1 inside its floor.
configs/digits.py:smoke is the same in seconds, for tests; its scores mean nothing.
"""

from fmdp.config import default
from fmdp.errors import InputError


def get_config(variant: str = ""):
    config = default()
    config.name = "digits"
    config.data.source = "digits"
    config.network.name = "mlp"
    config.network.width = 256
    config.network.blocks = 3
    config.loss.off_diagonal = "meanflow"
    config.loss.diagonal_share = 0.5
    config.train.steps = 5700
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 2.0
    config.ema.half_life = 400_000.0
    if variant not in ("", "smoke"):
        raise InputError(f"configs/digits.py knows no variant {variant!r}: leave it out, or use smoke")
    if variant == "smoke":
        config.name = "digits_smoke"
        config.network.width = 32
        config.network.blocks = 1
        config.train.steps = 30
    return config
