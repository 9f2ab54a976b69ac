"""The lookahead that spends a budget of decibels, by the calibration of a run."""

import pathlib

from fmdp.errors import InputError
from fmdp.evaluation.calibration import Calibration
from fmdp.flow.interpolant import time_of_sigma
from fmdp.io.files import read_json
from fmdp.restoration.request import Request


def lookahead_for_budget(decibels: float, request: Request, checkpoint: pathlib.Path) -> float:
    """The lookahead at which denoising gives up that many decibels, by the calibration of a run.

    Raises:
      InputError: there is no calibration for this, or more decibels than any lookahead gives up.
    """
    if request.operator != "denoising" or request.sigma is None:
        raise InputError(f"--budget_db={decibels:g}: only --operator=denoising with --sigma is calibrated: set both")
    path = checkpoint / "calibration.json"
    if not path.is_file():
        raise InputError(f"--budget_db={decibels:g}: {checkpoint} holds no calibration.json, as a measured run does")
    calibration = Calibration.from_dict(read_json(path))
    levels = [level.noise_level for level in calibration.levels]
    least, most = (level / (1 - level) for level in (levels[0], levels[-1]))
    if not least * (1 - 1e-6) <= request.sigma <= most * (1 + 1e-6):
        raise InputError(f"--sigma={request.sigma:g}: this checkpoint is calibrated from {least:.3g} to {most:.3g}")
    return calibration.knob_for_loss(1 - float(time_of_sigma(request.sigma)), decibels)
