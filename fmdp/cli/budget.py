"""The lookahead that spends a budget of decibels, by the calibration of a run."""

import dataclasses
import pathlib

from fmdp.errors import InputError, translating
from fmdp.evaluation.calibration import Calibration
from fmdp.flow.interpolant import time_of_sigma
from fmdp.io.files import read_json
from fmdp.restoration.prepare import Picture, noise_left
from fmdp.restoration.request import GRAY_LEVELS, Request


@dataclasses.dataclass(frozen=True)
class Budget:
    """Decibels to give up for perception, and what they buy with a prior.

    Attributes:
      calibration: of the prior.
      channels: of its images.
      in_levels: whether messages give noise levels of 255, as the command did.
    """

    decibels: float
    calibration: Calibration
    channels: int
    in_levels: bool

    def spend(self, request: Request, picture: Picture) -> Request:
        """The request with the lookahead for the noise that is left in a picture, which a gray prior takes in gray.

        Raises:
          InputError: its noise level is not calibrated, or the budget is larger than what any lookahead gives up.
        """
        to_gray = request.degraded and self.channels == 1 and picture.pixels.shape[-1] == 3
        lookahead = self.lookahead(noise_left(float(request.sigma or 0), to_gray), " in gray" if to_gray else "")
        return dataclasses.replace(request, lookaheads=(lookahead,))

    def lookahead(self, sigma: float, where: str = "") -> float:
        """The lookahead at a noise level; InputError, which says where this is the level, if there is none."""
        levels = [level.noise_level for level in self.calibration.levels]
        least, most = (level / (1 - level) for level in (levels[0], levels[-1]))
        flag, unit = ("--sigma_255", GRAY_LEVELS) if self.in_levels else ("--sigma", 1.0)
        stated = f"{flag}={sigma * unit:.4g}{where}"
        if not least * (1 - 1e-6) <= sigma <= most * (1 + 1e-6):
            known = f"from {least * unit:.3g} to {most * unit:.3g}"
            raise InputError(f"{stated}: this checkpoint is calibrated {known}: leave --budget_db out for other levels")
        with translating(lambda why: f"{stated}: {why}", InputError):
            return self.calibration.knob_for_loss(1 - float(time_of_sigma(sigma)), self.decibels)


def read_budget(decibels: float, request: Request, checkpoint: pathlib.Path, channels: int, in_levels: bool) -> Budget:
    """The budget for a prior, by the calibration beside its checkpoint.

    Raises:
      InputError: there is no calibration, or the budget can be spent in no picture.
    """
    if request.operator != "denoising" or request.sigma is None:
        remedy = "only --operator=denoising with --sigma or --sigma_255 is calibrated: set both"
        raise InputError(f"--budget_db={decibels:g}: {remedy}")
    path = checkpoint / "calibration.json"
    if not path.is_file():
        raise InputError(f"--budget_db={decibels:g}: {checkpoint} holds no calibration.json, as a measured run does")
    budget = Budget(decibels, Calibration.from_dict(read_json(path)), channels, in_levels)
    try:
        budget.lookahead(float(request.sigma))
    except InputError as error:
        if channels != 1 or not request.degraded:
            raise
        try:  # colour pictures keep less noise in gray
            budget.lookahead(noise_left(float(request.sigma), to_gray=True))
        except InputError:
            raise error from None
    return budget
