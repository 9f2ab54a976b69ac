"""Reporting the metrics of training steps: metrics.jsonl, TensorBoard events and a progress bar."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from fmdp.training.scalar_log import ScalarLog
from fmdp.training.step import Metrics
from fmdp.training.watching import SHOWN


class Reporter:
    """Reports every config.train.log_every steps; a context manager.

    Metrics are reported one interval late. By then they are computed, and the device never waits for the host.
    """

    def __init__(
        self, config: ConfigDict, workdir: pathlib.Path, start: int, observe: Callable[[int, dict[str, float]], None]
    ):
        """Report the steps after `start` in a workdir, and call `observe` with each report."""
        self._every, self._batch_size, self._observe = config.train.log_every, config.train.batch_size, observe
        self._log = ScalarLog(workdir, start)
        self._bar = tqdm(total=config.train.steps, initial=start, unit="step", disable=jax.process_index() > 0)
        self._late: tuple[int, dict[str, Any]] | None = None
        self._watched = ""  # what was last watched, in the progress bar

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()
        self._log.__exit__(*exception)

    def report(self, step: int, metrics: Metrics, watched: dict[str, float], now: bool) -> dict[str, float]:
        """Take the metrics of a step.

        Args:
          watched: what `watching` measured after this step, or nothing; it has the step reported.
          now: report them at once, whether or not it is their turn.

        Returns:
          Them as numbers where they are reported now, or nothing.
        """
        self._bar.update()
        if not now and not watched and step % self._every:
            return {}
        self._report_late()
        self._late = (step, {**metrics, **watched})
        return self._report_late() if now else {}

    def discard_late(self) -> None:
        """Leave out the metrics that wait to be reported, because the run has rolled back."""
        self._late = None

    def _report_late(self) -> dict[str, float]:
        if self._late is None:
            return {}
        step, metrics = self._late
        self._late = None
        scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._observe(step, scalars)
        rate = (self._bar.format_dict["rate"] or 0.0) * self._batch_size
        self._log.write(step, scalars | {"examples_per_second": rate})
        if set(SHOWN) <= scalars.keys():
            self._watched = ", held-out MSE {:.3f} at t = s, {:.3f} at 1".format(*(scalars[name] for name in SHOWN))
        self._bar.set_postfix_str(f"loss {scalars['loss']:.4f}, {rate:.0f} examples/s{self._watched}")
        return scalars
