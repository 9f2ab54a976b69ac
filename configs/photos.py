"""Photographs of any kind, in colour: a fully convolutional U-Net on random crops, which goes on from the prior photos.

python -m fmdp.main --config=configs/photos.py --config.data.path=FOLDER

The path is a folder of photographs, or a zip. They are best at least twice as large as the crops of 64 pixels, and need
not have one size. One twentieth of them is held out, and measured in one crop each.

Expected time: not measured as a whole. The step that made the prior took 63 ms on one H100 for 64 crops of 128 pixels,
which are as many pixels as 256 crops of 64. Products are in bfloat16 on a GPU or TPU.
Expected scores: not measured with this configuration. The prior that it goes on from, fmdp.load("photos"), reaches
33.65 / 30.92 / 27.66 dB on CBSD68 at noise of 15 / 25 / 50 of 255 (t = s, tiles of 128 pixels; docs/photos/README.md).
configs/photos.py:small trains a network of a twentieth of the size on crops of 32 pixels, from random parameters; it is
for comparing recipes. configs/photos.py:smoke is for tests. Its scores are meaningless.
"""

from fmdp.config import presets
from fmdp.config.defaults import default_config
from fmdp.errors import InputError


def get_config(variant: str = ""):
    if variant not in ("", "small", "smoke"):
        raise InputError(f"configs/photos.py knows no variant {variant!r}: leave it out, or use small or smoke")
    config = default_config()
    config.name = "photos"
    config.data.update(path="data/photos", size=64, crop="random", flip=True, test_share=0.05, test_images=1000)
    config.data.download_hint = "give --config.data.path, a folder of photographs"
    config.network = {
        "name": "unet", "channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "attention": (), "resolution": 64,
        "time_scale": 8.0, "adaptive": True, "middle_attention": False, "dtype": "auto", "remat": False,
    }  # fmt: skip
    config.loss.update(off_diagonal="improved_meanflow", diagonal_share=0.75, times="late")
    config.optimizer.update(learning_rate=6e-4, warmup_steps=300)
    config.ema.half_life = 15_000.0
    config.train.update(steps=15_000, batch_size=96, start_from="photos")
    config.evaluate.update(
        noise_levels=(0.1, 0.3, 0.5), points=9, noise_draws=1, bootstrap=50, batch_size=50, baseline_images=16,
        lpips="auto", dists="auto", vgg16="auto",
    )  # fmt: skip
    if variant:
        config.train.start_from = ""
    if variant == "small":
        config.name = "photos_small"
        config.data.size = 32
        config.network.update(channels=16, blocks=1, resolution=32)
        config.optimizer.update(learning_rate=1e-3, warmup_steps=100)
        config.train.update(steps=1500, batch_size=16)
    if variant == "smoke":
        presets.smoke(config)
    return config
