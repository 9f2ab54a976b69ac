"""AFHQ animal faces, 256x256 in colour, with the settings of the paper.

python -m fmdp.main --config=configs/afhq.py --config.data.path=data/afhq

The path is one of these:
- AFHQ's official folder, with train/ and val/ (or test/), each with cat/, dog/ and wild/. The official split is kept.
- A folder of one class, such as data/afhq/train/cat. One fiftieth of it is held out.
- Any other folder or zip of pictures of at least 256 pixels a side.

--config.data.workers=8 decodes in eight processes.

Expected time: not measured. The settings are meant for days on one TPU host or GPU server.
Products are in bfloat16 on a GPU or TPU (--config.network.dtype=float32 changes that).
--config.network.remat=True trades time for memory.
Memory of the training step on one device (fmdp.bench --only=memory, as compiled for a CPU): 3.6 GB, plus 6.9 GB for
each example. That allows a batch of 1 / 3 / 9 on devices of 16 / 32 / 80 GB. docs/devices.md says what fits a TPU, and
how to use several devices. --config.train.grad_accumulation_steps processes larger batches in parts.
Expected scores: not measured.
configs/afhq.py:smoke is for tests: 32 pixels, a tiny network and two steps. Its scores are meaningless.
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
