"""CIFAR-10, 32x32 in colour, with the settings of the paper.

python -m fmdp.main --config=configs/cifar10.py --config.data.path=cifar10-32x32.zip

The path is a zip in StyleGAN's layout, a folder of pictures (train/<class>/, test/<class>/), or an npz with x_train,
y_train, x_test and y_test. What tensorflow-datasets has prepared as array_record is
--config.data.source=tfds --config.data.path=<its data_dir>. Without an official split a fiftieth is held out.

Expected time: not measured; meant for one TPU host or GPU server. --config.network.dtype=bfloat16 and
--config.network.remat=True trade precision and time for memory.
Memory of the training step on one device (fmdp.bench --only=memory, as compiled for a CPU): 3.5 GB and 15 MB for
each example; a batch of 700 / 1,700 / 4,600 on devices of 16 / 32 / 80 GB.
--config.train.grad_accumulation_steps takes larger ones in parts, and docs/devices.md tells of more devices.
Expected scores: not measured.
configs/cifar10.py:small is a network of two million parameters, by which fmdp.bench measures speed on a CPU.
configs/cifar10.py:smoke is the same at 32 pixels with a tiny network and two steps, for tests; its scores mean nothing.
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
