"""Photographs of any kind, in colour: a fully convolutional U-Net on random crops, which goes on from the prior photos.

python -m fmdp.main --config=configs/photos.py --config.data.path=FOLDER

The path is a folder of photographs, or a zip. They are best at least twice as large as the crops of 64 pixels, and need
not have one size. One twentieth of them is held out, and measured in one crop each.

Expected time: not measured as a whole. The step that made the prior took 63 ms on one H100 for 64 crops of 128 pixels,
which are as many pixels as 256 crops of 64. Products are in bfloat16 on a GPU or TPU.
Expected scores: not measured with this configuration. The prior that it goes on from, fmdp.load("photos"), reaches
33.64 / 30.92 / 27.65 dB at t = s on CBSD68 at noise of 15 / 25 / 50 of 255, and an LPIPS of .20 at t = 1 and 50 of 255
(--mode=benchmark, docs/benchmark.md).

Inverse problems (docs/inverse.md), by a prior that is not trained on the pictures of FOLDER:

python -m fmdp.main --config=configs/photos.py:inverse --mode=inverse --checkpoint=photos --config.data.path=FOLDER

takes eight crops of 64 pixels from one third of the pictures, at 30 evaluations and published options, in 40 minutes
on two CPU cores.
configs/photos.py:inverse_gpu takes crops of 128 pixels and 100 evaluations, and tunes all solvers alike on the others.

configs/photos.py:small trains a network of a twentieth of the size on crops of 32 pixels, from random parameters; it is
for comparing recipes. configs/photos.py:smoke is for tests. Its scores are meaningless.
"""

from fmdp.config import presets, tasks
from fmdp.config.defaults import default_config
from fmdp.errors import InputError

VARIANTS = ("small", "inverse", "inverse_gpu", "smoke")


def get_config(variant: str = ""):
    if variant not in ("", *VARIANTS):
        raise InputError(
            f"configs/photos.py knows no variant {variant!r}: leave it out, or use one of {', '.join(VARIANTS)}"
        )
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
    config.inverse.tasks = inverse_tasks(64)
    config.inverse.update(
        solvers=("pnp", "pnp_flow", "flower", "dps"), images=8, tuning_images=0, seeds=2, batch_size=8, steps=(30,),
        lookaheads=(0.0, 0.5, 1.0), chord=False, schedule="safe", pnp_flow_draws=1,
    )  # fmt: skip
    if variant in ("inverse", "inverse_gpu"):
        config.name = f"photos_{variant}"
        config.data.update(test_share=0.34, min_scale=1.0)
        config.evaluate.update(dists="", vgg16="")
    elif variant:
        config.train.start_from = ""
    if variant == "inverse_gpu":
        config.data.size = 128
        config.inverse.tasks = inverse_tasks(128)
        config.inverse.update(tuning_images=8, steps=(100,))
    if variant == "small":
        config.name = "photos_small"
        config.data.size = 32
        config.network.update(channels=16, blocks=1, resolution=32)
        config.optimizer.update(learning_rate=1e-3, warmup_steps=100)
        config.train.update(steps=1500, batch_size=16)
    if variant == "smoke":
        presets.smoke(config)
        config.inverse.tasks = {name: config.inverse.tasks[name] for name in ("box_inpainting", "jpeg")}
        config.inverse.update(images=2, steps=(2,))
    return config


def inverse_tasks(size: int) -> dict[str, tasks.Task]:
    """The inverse problems on photographs of size x size pixels, as in arXiv 2606.19802 where it has them.

    Random inpainting hides 70 % of the pixels, as in arXiv 2410.02423: the 90 % there are for 300 steps.
    """
    published = tasks.fmd((size, size, 3))
    names = ("box_inpainting", "gaussian_deblurring", "motion_deblurring", "super_resolution_4", "jpeg")
    chosen = {name: published[name] for name in names}
    chosen["random_inpainting"] = tasks.pnpflow((size, size, 3))["random_inpainting"]
    chosen["super_resolution_2"] = published["super_resolution_4"] | {"factor": 2}
    return {name: chosen[name] for name in sorted(chosen)}
