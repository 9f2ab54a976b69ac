"""Command lines that differ only in numbers run the same programs: the second compiles nothing."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.support.forked import Ended, run_forked

pytestmark = pytest.mark.slow

SMALL = (
    "--config.evaluate.points=3", "--config.evaluate.noise_draws=1", "--config.evaluate.batch_size=50",
    "--config.evaluate.baseline_images=30", "--config.evaluate.baseline_steps=2", "--config.evaluate.bootstrap=5",
    "--config.loss.off_diagonal=semigroup", "--config.loss.weighting=learned",
)  # fmt: skip
DIGITS = ("--config=configs/digits.py:smoke", *SMALL, "--config.data.test_share=0.1", "--config.inverse.images=3",
          "--config.inverse.tuning_images=2", "--config.inverse.steps=(3,)", "--config.inverse.seeds=1")  # fmt: skip
GAUSSIAN = ("--config=configs/gaussian.py:smoke", *SMALL, "--config.evaluate.baseline_images=0")
RUNS = {
    "first": (
        "--config.train.steps=4", "--config.optimizer.learning_rate=1e-3", "--config.optimizer.warmup_steps=1",
        "--config.optimizer.weight_decay=0.0", "--config.ema.half_life=1000.0", "--config.seed=0",
        "--config.evaluate.noise_levels=(0.5,)", "--config.inverse.lookaheads=(0.0,1.0)",
    ),
    "second": (
        "--config.train.steps=7", "--config.optimizer.learning_rate=2e-3", "--config.optimizer.warmup_steps=3",
        "--config.optimizer.weight_decay=0.1", "--config.ema.half_life=3000.0", "--config.seed=1",
        "--config.evaluate.noise_levels=(0.4,)", "--config.inverse.lookaheads=(0.2,0.7)",
    ),
}  # fmt: skip
TASK = {order: f"--config.inverse.tasks.box_inpainting.sigma={x}" for order, x in (("first", 0.05), ("second", 0.1))}
RESTORED = {
    "first": ("--sigma=0.1", "--lookahead=0.3", "--seed=0", "--gain=1", "--operator_arg=ratio=0.3"),
    "second": ("--sigma=0.2", "--lookahead=0.6", "--seed=3", "--gain=0.7", "--operator_arg=ratio=0.4"),
}


def programs(outcome: str, ended: Ended) -> set[tuple[str, str]]:
    """The compiled programs, with their keys in the cache, that a process found ("hit") or did not ("MISS")."""
    return set(re.findall(rf"compilation cache {outcome} for '(.*?)' with key '(.*?)'", ended.err, re.IGNORECASE))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What the first and the second process of each command came to; every second one starts after the first."""
    folder = tmp_path_factory.mktemp("numbers")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")

    def trained(order):
        return {
            f"{name} {order}": [*config, *RUNS[order], f"--workdir={folder / name / order}"]
            for name, config in {"digits": DIGITS, "gaussian": GAUSSIAN}.items()
        }

    def used(order):
        workdir = folder / "digits" / order
        restore = ["--mode=restore", f"--input={folder / 'picture.png'}", f"--checkpoint={workdir}", "--degrade"]
        steps = ("--operator=random_inpainting", "--steps=3", "--num_samples=2")
        return {
            f"inverse {order}": ["--mode=inverse", *DIGITS, *RUNS[order], TASK[order], f"--workdir={workdir}"],
            f"denoise {order}": [*restore, *RESTORED[order][:3], f"--output={folder / 'denoised' / order}"],
            f"plug and play {order}": [*restore, *RESTORED[order], *steps, f"--output={folder / 'restored' / order}"],
        }

    found = {}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JAX_DEBUG_LOG_MODULES", "jax._src.compiler")  # which program is found in the cache
        for cases in (trained("first"), used("first") | trained("second"), used("second")):
            found |= run_forked(cases)
    return found


@pytest.mark.parametrize("command", ["digits", "gaussian", "inverse", "denoise", "plug and play"])
def test_a_second_process_that_differs_only_in_numbers_compiles_nothing(ended, command):
    first, second = (ended[f"{command} {order}"] for order in RUNS)
    assert (first.code, second.code) == (0, 0), (first.err[-2000:], second.err[-2000:])
    assert not {name for name, _ in programs("miss", second)}
    before = programs("hit", first) | programs("miss", first)
    assert len(before) > 5
    # The cache of the tests outlives them: what it holds of an earlier second process counts as compiled.
    assert not {name for name, key in programs("hit", second) if (name, key) not in before}
