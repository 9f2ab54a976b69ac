"""Handwritten digits, 8x8: scikit-learn's bundled images and a residual MLP.

python -m fmdp.main --config=configs/digits.py

Expected time on two CPU cores: 85 to 145 s of training, 20 to 30 s of evaluation.
Expected scores at noise levels .3 / .5 / .7: MSE per pixel .038 / .106 / .234 at t = s and .040 / .122 / .333 at t = 1;
variance ratio at t = 1 .99 / .97 / .97 (means of three seeds, which differ by up to .03); MMD^2 at t = 1 within chance.
configs/digits.py:smoke is for tests and takes seconds. Its scores are meaningless.
"""

from fmdp.config.defaults import default_config
from fmdp.errors import InputError


def get_config(variant: str = ""):
    config = default_config()
    config.name = "digits"
    config.data.source = "digits"
    config.network.name = "mlp"
    config.network.width = 256
    config.network.blocks = 3
    config.parallel.cpu_devices = 1  # a single matrix product keeps all cores busy
    config.loss.off_diagonal = "meanflow"
    config.loss.diagonal_share = 0.5
    config.loss.times = "late"  # docs/training.md compares it with other recipes
    config.train.steps = 5700
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 2.0
    config.ema.half_life = 400_000.0
    config.inverse.tasks = {
        "box_inpainting": {"operator": "box_inpainting", "sigma": 0.05, "size": 3},
        "super_resolution": {"operator": "super_resolution", "sigma": 0.05, "factor": 2},
        "deblurring": {"operator": "gaussian_blur", "sigma": 0.05, "kernel_size": 5, "std": 1.0},
        "random_inpainting": {"operator": "random_inpainting", "sigma": 0.05, "ratio": 0.7},
    }
    if variant not in ("", "smoke"):
        raise InputError(f"configs/digits.py knows no variant {variant!r}: leave it out, or use smoke")
    if variant == "smoke":
        config.name = "digits_smoke"
        config.network.width = 32
        config.network.blocks = 1
        config.train.steps = 30
        config.evaluate.update(points=9, noise_draws=1, bootstrap=20, figure_images=2)
        config.evaluate.update(baseline_images=40, baseline_steps=4)
        config.inverse.tasks = {"box_inpainting": config.inverse.tasks.box_inpainting}
        config.inverse.update(solvers=("pnp", "flower"), images=8, tuning_images=4, seeds=2, steps=(2, 5))
        config.inverse.lookaheads = (0.0, 1.0)
    return config
