"""A mixture of ten Gaussians fitted to the digits: a known distribution that looks like real images.

python -m fmdp.main --config=configs/digits_model.py

Expected time on two CPU cores: 225 to 240 s of training, 80 s of evaluation.
Expected scores at noise levels .3 / .5 / .7:
- The learned MSE is above that of the exact field by 1.2 / 1.4 / .3 % at t = s and by .7 / -.7 / -1.6 % at t = 1
  (means of three seeds).
- The mean squared field error, relative to the mean square of the exact field, is .5 / .5 / .1 % at t = s and
  .6 / 1.9 / 2.6 % at t = 1.
- P*^2 lies in [.0061, .0103], [.0259, .0347], [.1023, .1139]. At t = 1 the exact lookahead costs at most 7.9 / 6.2 /
  3.4 % more than the optimum.
"""

from fmdp.config.defaults import default_config
from fmdp.errors import InputError


def get_config(variant: str = ""):
    if variant not in ("", "smoke"):
        raise InputError(f"configs/digits_model.py knows no variant {variant!r}: leave it out, or use smoke")
    config = default_config()
    config.name = "digits_model"
    config.data.source = "digits_model"
    config.data.samples = 1_500_000  # each is seen less than three times
    config.network = {"name": "mlp", "width": 256, "blocks": 3, "output_gain": True}
    config.parallel.cpu_devices = 1  # a single matrix product keeps all cores busy
    config.loss.off_diagonal = "lagrangian"
    config.loss.diagonal_share = 0.75
    config.optimizer.update(learning_rate=4e-3, b2=0.999)
    config.ema.half_life = 400_000.0
    config.train.update(steps=16_000, checkpoint_every=4000)
    config.evaluate.update(
        noise_draws=1, bootstrap=50, points=11, batch_size=1000, baseline_images=1000, baseline_steps=50
    )
    if variant == "smoke":
        config.name = "digits_model_smoke"
        config.network.width = 16
        config.data.update(samples=1000, test_samples=700)
        config.train.update(steps=20, batch_size=64)
        config.evaluate.update(points=3, batch_size=700, baseline_images=640, baseline_steps=4)
    return config
