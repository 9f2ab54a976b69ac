"""Fashion-MNIST, 28x28 in gray: a small U-Net.

python -m fmdp.main --config=configs/fashion_mnist.py --config.data.path=data/fashion_mnist

The folder holds the four IDX files of Zalando's Fashion-MNIST (train-images-idx3-ubyte.gz and the other three, gzipped
or not). The official split is kept. The evaluation uses 1,000 of the test images, 100 of each class.

Expected time on two busy CPU cores: 50 minutes of training (38 on idle ones), 7 minutes of evaluation, and 22 minutes
of --mode=inverse.
Expected scores at noise levels .3 / .5 / .7: MSE per pixel .0189 / .0486 / .1044 at t = s and .0213 / .0588 / .1432 at
t = 1; variance ratio at t = 1 1.00 / 1.01 / .97. fmdp.load("fashion_mnist") is this network.
configs/fashion_mnist.py:smoke is for tests: a tiny network and a few steps. Its scores are meaningless.
"""

from fmdp.config.defaults import default_config
from fmdp.errors import InputError

TASKS = {
    "box_inpainting": {"operator": "box_inpainting", "sigma": 0.05, "size": 9},
    "random_inpainting": {"operator": "random_inpainting", "sigma": 0.05, "ratio": 0.7},
    "super_resolution": {"operator": "super_resolution", "sigma": 0.05, "factor": 2},
    "gaussian_deblurring": {"operator": "gaussian_blur", "sigma": 0.05, "kernel_size": 7, "std": 1.5},
    "motion_deblurring": {"operator": "motion_blur", "sigma": 0.05, "kernel_size": 9, "intensity": 0.5},
    "jpeg": {"operator": "jpeg", "sigma": 0.05, "quality": 10},
    "phase_retrieval": {"operator": "phase_retrieval", "sigma": 0.05, "oversampling": 2.0},
    "poisson_deblurring": {"operator": "gaussian_blur", "peak": 20.0, "kernel_size": 7, "std": 1.5},
}


def get_config(variant: str = ""):
    if variant not in ("", "smoke"):
        raise InputError(f"configs/fashion_mnist.py knows no variant {variant!r}: leave it out, or use smoke")
    config = default_config()
    config.name = "fashion_mnist"
    config.data.update(source="idx", path="data/fashion_mnist", test_images=1000)
    config.data.download_hint = "get the four IDX files from github.com/zalandoresearch/fashion-mnist"
    config.network = {
        "name": "unet", "channels": 16, "multipliers": (1, 2, 2), "blocks": 1, "attention": (7,), "resolution": 28,
        "time_scale": 8.0, "adaptive": True, "dtype": "auto",
    }  # fmt: skip
    config.loss.update(off_diagonal="improved_meanflow", diagonal_share=0.75, times="late")
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200, b2=0.99)
    config.ema.half_life = 60_000.0
    config.train.update(steps=6300, batch_size=64, log_every=50, checkpoint_every=200)
    config.evaluate.update(noise_draws=1, bootstrap=50, batch_size=250, baseline_images=100)
    config.inverse.update(
        images=32, tuning_images=8, seeds=2, batch_size=8, steps=(20, 50), lookaheads=(0.0, 0.5, 1.0),
        solvers=("pnp", "pnp_flow", "flower"), tasks=TASKS,
    )  # fmt: skip
    if variant == "smoke":
        config.name = "fashion_mnist_smoke"
        config.network.update(channels=4, multipliers=(1,), attention=())
        config.data.test_images = 20
        config.train.update(steps=4, batch_size=8)
        config.evaluate.update(points=3, batch_size=20, baseline_images=4, baseline_steps=2)
        config.inverse.update(images=4, tuning_images=2, batch_size=2, seeds=1, steps=(2,), solvers=("pnp",))
    return config
