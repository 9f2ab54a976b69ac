"""Settings that several configurations share."""

from ml_collections import ConfigDict

from fmdp.config.defaults import default_config


def paper(size: int) -> ConfigDict:
    """The settings of arXiv 2606.19802 for pictures of size x size pixels in colour.

    Where the paper does not say: the batch, the number of steps, and what is measured.
    """
    config = default_config()
    config.data.update(size=size, flip=True, test_images=500)
    config.network = {
        "name": "unet", "channels": 128, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (16, 8),
        "resolution": size, "dtype": "auto", "remat": False,
    }  # fmt: skip
    config.loss.update(off_diagonal="lagrangian", diagonal_share=0.75, weighting="learned")
    config.optimizer.update(learning_rate=2e-4, warmup_steps=1000, decay=False, b1=0.9, b2=0.95, clip_norm=1.0)
    config.ema.half_life = 500_000.0
    config.train.update(steps=200_000, batch_size=256, log_every=100, checkpoint_every=2000)
    config.evaluate.update(
        noise_levels=(0.1, 0.3, 0.5, 0.7), points=9, noise_draws=1, bootstrap=50, batch_size=50, baseline_images=16,
        inception="auto", lpips="auto",
    )  # fmt: skip
    config.inverse.batch_size = config.evaluate.batch_size
    return config


def smoke(config: ConfigDict) -> None:
    """Make a configuration of pictures one of seconds, in place: 32 pixels, a tiny network, a few steps, for tests."""
    config.name = f"{config.name}_smoke"
    config.data.size = 32
    config.network.update(channels=4, multipliers=(1,), blocks=0, attention=(), resolution=32)
    config.train.update(steps=2, batch_size=8, log_every=1, checkpoint_every=2)
    config.evaluate.update(
        noise_levels=(0.5,), points=3, noise_draws=1, bootstrap=2, batch_size=8, baseline_images=4, baseline_steps=2
    )
