"""CelebA faces, 128x128 in colour, with the settings of the paper.

python -m fmdp.main --config=configs/celeba.py --config.data.path=data/celeba/img_align_celeba

The path is the folder of the 202,599 aligned pictures of 178x218 pixels, or a zip of it. The central 178x178 pixels are
used, and one hundredth of the pictures is held out. Data that tensorflow-datasets has prepared as array_record keep
their official split: --config.data.source=tfds --config.data.path=<its data_dir>. Any other folder of pictures of at
least 128 pixels a side works, too. --config.data.workers=8 decodes in eight processes.

Expected time: not measured. The settings are meant for days on one TPU host or GPU server.
Products are in bfloat16 on a GPU or TPU (--config.network.dtype=float32 changes that).
--config.network.remat=True trades time for memory.
Memory of the training step on one device (fmdp.bench --only=memory, as compiled for a CPU): 4.1 GB, plus 1.7 GB for
each example. That allows a batch of 6 / 14 / 39 on devices of 16 / 32 / 80 GB. docs/devices.md says what fits a TPU,
and how to use several devices. --config.train.grad_accumulation_steps processes larger batches in parts.
Expected scores: not measured. The paper reports on 500 faces, at noise levels .1 / .3 / .5 / .7: PSNR 35.98 / 29.67 /
26.18 / 22.89 dB at t = s and 35.50 / 28.67 / 25.00 / 21.56 dB at t = 1, with a variance ratio of .997 / .991 / .983 /
.961 at t = 1.
configs/celeba.py:smoke is for tests: 32 pixels, a tiny network and two steps. Its scores are meaningless.
"""

from fmdp.config import presets
from fmdp.errors import InputError


def get_config(variant: str = ""):
    if variant not in ("", "smoke"):
        raise InputError(f"configs/celeba.py knows no variant {variant!r}: leave it out, or use smoke")
    config = presets.paper(128)
    config.name = "celeba"
    config.data.update(path="data/celeba/img_align_celeba", dataset="celeb_a", test_share=0.01)
    config.data.download_hint = "get img_align_celeba.zip from mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    if variant == "smoke":
        presets.smoke(config)
    return config
