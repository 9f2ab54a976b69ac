"""AFHQ animal faces, 256x256 in colour, with the settings of the paper.

python -m fmdp.main --config=configs/afhq.py --config.data.path=data/afhq

The path is AFHQ's official folder, train/ and val/ (or test/) with cat/, dog/ and wild/ in each, whose split is kept; a
folder of one of them, such as data/afhq/train/cat, of which a fiftieth is held out; or any other folder or zip of
pictures of at least 256 pixels a side. --config.data.workers=8 decodes in eight processes.

Expected time: not measured; meant for one TPU host or GPU server, for days. --config.network.dtype=bfloat16 and
--config.network.remat=True trade precision and time for memory.
Memory of the training step on one device (fmdp.bench --only=memory, as compiled for a CPU): 1.8 GB and 6.7 GB for
each example; a batch of 2 / 4 / 10 on devices of 16 / 32 / 80 GB. --config.train.grad_accumulation_steps
takes larger ones in parts, and docs/devices.md tells of more devices.
Expected scores: not measured.
configs/afhq.py:smoke is the same at 32 pixels with a tiny network and two steps, for tests; its scores mean nothing.
"""

from fmdp.config import presets
from fmdp.errors import InputError


def get_config(variant: str = ""):
    if variant not in ("", "smoke"):
        raise InputError(f"configs/afhq.py knows no variant {variant!r}: leave it out, or use smoke")
    config = presets.paper(256)
    config.name = "afhq"
    config.data.update(path="data/afhq", dataset="afhq", test_share=0.02, test_images=200)
    config.data.download_hint = "get it by the download script of github.com/clovaai/stargan-v2"
    config.train.batch_size = 64
    if variant == "smoke":
        presets.smoke(config)
    return config
