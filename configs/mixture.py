"""Two Gaussians in the plane: learned and exact denoisers, the chord and the optimal frontier in one picture.

python -m fmdp.main --config=configs/mixture.py

Expected time on two CPU cores: 60 s of training, 130 s of evaluation (optimal assignment).
Expected scores: at every t the learned MSE is within 1 % of that of the exact field. In the middle of the curve the
exact lookahead lies .5 to 4.2 % above the frontier. The exact MMSE per coordinate is .606 / .315 / .088 at noise levels
.7 / .5 / .3.
"""

from fmdp.config.defaults import default_config
from fmdp.errors import InputError


def get_config(variant: str = ""):
    if variant not in ("", "smoke"):
        raise InputError(f"configs/mixture.py knows no variant {variant!r}: leave it out, or use smoke")
    config = default_config()
    config.name = "mixture"
    config.data.source = "mixture"
    config.network = {"name": "mlp", "width": 128, "blocks": 3}
    config.parallel.cpu_devices = 1  # a single matrix product keeps all cores busy
    config.loss.off_diagonal = "lagrangian"
    config.loss.diagonal_share = 0.5
    config.train.update(steps=4000, batch_size=256)
    config.evaluate.update(
        noise_draws=1, bootstrap=50, points=11, batch_size=1000, baseline_images=1000, baseline_steps=50
    )
    if variant == "smoke":
        config.name = "mixture_smoke"
        config.network.width = 16
        config.train.update(steps=20, batch_size=64)
        config.data.update(samples=500, test_samples=200)
        config.evaluate.update(points=4, batch_size=200, baseline_images=100, baseline_steps=4)
    return config
