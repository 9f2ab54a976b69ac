"""CelebA faces, 128x128 in colour, with the settings of the paper.

python -m fmdp.main --config=configs/celeba.py --config.data.path=data/celeba/img_align_celeba

The path is the folder of the 202,599 aligned pictures of 178x218 pixels (their middle 178x178 are used), or a zip of
it; a hundredth is held out. What tensorflow-datasets has prepared as array_record keeps its official split:
--config.data.source=tfds --config.data.path=<its data_dir>. Any other folder of pictures of at least 128 pixels a side
does as well. --config.data.workers=8 decodes in eight processes.

Expected time: not measured; meant for one TPU host or GPU server, for days. --config.network.dtype=bfloat16 and
--config.network.remat=True trade precision and time for memory.
Memory of the training step on one device (fmdp.bench --only=memory, as compiled for a CPU): 1.7 GB and 1.7 GB for
each example; a batch of 7 / 16 / 41 on devices of 16 / 32 / 80 GB, with the two options above 8 / 19 / 53.
--config.train.grad_accumulation_steps takes larger ones in parts, and docs/devices.md tells of more devices.
Expected scores: not measured. The paper's, on 500 faces at noise levels .1 / .3 / .5 / .7: PSNR 35.98 / 29.67 / 26.18 /
22.89 dB at t = s and 35.50 / 28.67 / 25.00 / 21.56 dB at t = 1, variance ratio there .997 / .991 / .983 / .961.
configs/celeba.py:smoke is the same at 32 pixels with a tiny network and two steps, for tests; its scores mean nothing.
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
