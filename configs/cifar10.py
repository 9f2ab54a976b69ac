"""CIFAR-10, 32x32 in colour, with the settings of the paper.

python -m fmdp.main --config=configs/cifar10.py --config.data.path=cifar10-32x32.zip

The path is a zip in StyleGAN's layout, a folder of pictures (train/<class>/, test/<class>/), or an npz with x_train,
y_train, x_test and y_test. For data that tensorflow-datasets has prepared as array_record use
--config.data.source=tfds --config.data.path=<its data_dir>. Without an official split, one fiftieth is held out.

Expected time: not measured. The settings are meant for one TPU host or GPU server. Products are in bfloat16 on a GPU or
TPU (--config.network.dtype=float32 changes that). --config.network.remat=True trades time for memory.
Memory of the training step on one device (fmdp.bench --only=memory, as compiled for a CPU): 2.9 GB, plus 83 MB for
each example. That allows a batch of 139 / 313 / 835 on devices of 16 / 32 / 80 GB.
--config.train.grad_accumulation_steps processes larger batches in parts. docs/devices.md explains how to use several
devices.
Expected scores: not measured.
configs/cifar10.py:small has a network of two million parameters, with which fmdp.bench measures speed on a CPU.
configs/cifar10.py:smoke is for tests: 32 pixels, a tiny network and two steps. Its scores are meaningless.
"""

from fmdp.config import presets
from fmdp.errors import InputError


def get_config(variant: str = ""):
    if variant not in ("", "small", "smoke"):
        raise InputError(f"configs/cifar10.py knows no variant {variant!r}: leave it out, or use small or smoke")
    config = presets.paper(32)
    config.name = "cifar10"
    config.data.update(path="data/cifar10", dataset="cifar10", test_share=0.02, test_images=2000)
    config.data.download_hint = "write it there as folders train/<class> and test/<class> of PNG files, or as a zip"
    if variant == "small":
        config.name = "cifar10_small"
        config.network.update(channels=32, multipliers=(1, 2, 2), blocks=2, attention=(16,))
        config.train.batch_size = 16
    if variant == "smoke":
        presets.smoke(config)
    return config
