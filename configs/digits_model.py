"""A mixture of ten Gaussians fitted to the digits: a known distribution that looks like real images.

python -m fmdp.main --config=configs/digits_model.py

Expected time on two CPU cores: @DT@.
Expected scores: @DS@
"""

from fmdp.config import default
from fmdp.errors import InputError


def get_config(variant: str = ""):
    if variant not in ("", "smoke"):
        raise InputError(f"configs/digits_model.py knows no variant {variant!r}: leave it out, or use smoke")
    config = default()
    config.name = "digits_model"
    config.data.source = "digits_model"
    config.data.samples = 2_000_000  # as many as training sees, so that none is seen twice
    config.network = {"name": "mlp", "width": 256, "blocks": 3}
    config.loss.off_diagonal = "meanflow"
    config.loss.diagonal_share = 0.5
    config.optimizer.b2 = 0.999
    config.ema.half_life = 400_000.0
    config.train.update(steps=8000, checkpoint_every=2000)
    config.evaluate.update(draws=1, bootstrap=50, points=11, batch_size=1000, rival_images=1000, rival_steps=50)
    if variant == "smoke":
        config.name = "digits_model_smoke"
        config.network.width = 16
        config.data.update(samples=1000, test_samples=700)
        config.train.update(steps=20, batch_size=64)
        config.evaluate.update(points=3, batch_size=700, rival_images=640, rival_steps=4)
    return config
