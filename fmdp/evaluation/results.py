"""The results of every evaluation. `summary.Summary` holds them together; docs/summary.md describes every key."""

from dataclasses import dataclass, field
from typing import TypeAlias

from fmdp.metrics.perception import NullInterval

Number: TypeAlias = int | float
Measures: TypeAlias = dict[str, Number]
"""Numbers by the name of the measure, such as mse, mse_std and mse_draw_std."""


@dataclass(frozen=True, kw_only=True)
class DenoisingPoint:
    """One setting of a knob. `t` is the lookahead time, which only the lookahead has."""

    t: Number | None = None
    setting: Number
    evaluations: int
    measures: Measures


@dataclass(frozen=True, kw_only=True)
class FirstStep:
    """The change of the MSE over a small first step of the lookahead to time `t`, relative to its value at t = s."""

    t: Number
    relative_mse_change: Number


@dataclass(frozen=True, kw_only=True)
class DenoisingCurve:
    """One knob at one noise level. `s` is the time of the noisy images, 1 - noise_level."""

    noise_level: Number
    s: Number
    knob: str
    points: list[DenoisingPoint]
    first_step: FirstStep | None = None


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """How far the field is from the identities of a flow map at the times (s, t)."""

    s: Number
    t: Number
    measures: Measures


@dataclass(frozen=True, kw_only=True)
class DenoisingResult:
    """The denoising sweep: `images` held-out images under `draws` draws of the noise."""

    images: int
    draws: int
    denoise: list[DenoisingCurve]
    floor: dict[str, NullInterval]
    residuals: list[Residuals]
    weights: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CalibrationTrial:
    """A budget in decibels, the setting that the calibration gives for it, and the decibels then lost.

    Setting and loss are None where the whole range of the knob costs less than the budget.
    """

    noise_level: Number
    budget_db: Number
    setting: Number | None
    achieved_db: Number | None


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A quantity known to lie between `low` and `high`, each with its standard error; None where unknown."""

    low: Number | None
    high: Number | None
    low_error: Number | None
    high_error: Number | None


@dataclass(frozen=True, kw_only=True)
class KnownTargetPoint:
    """One setting of a knob in the plane of MSE and squared W2 per pixel; `excess` is relative to the optimum."""

    setting: Number
    mse: Number
    mse_error: Number
    squared_w2: Bounds
    excess: Bounds


@dataclass(frozen=True, kw_only=True)
class KnownTargetCurve:
    """One knob of the "exact" or the "learned" field."""

    field: str
    knob: str
    points: list[KnownTargetPoint]


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """The least MSE at a perception (W2 per root pixel): between `mse` and `mse_high`."""

    perception: Number
    mse: Number
    mse_high: Number


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """The error of the learned field at lookahead time `t`, relative to the norm of the exact one."""

    t: Number
    relative: Number


@dataclass(frozen=True, kw_only=True)
class KnownTargetLevel:
    """One noise level of a target whose distribution is known."""

    noise_level: Number
    s: Number
    mmse: Number
    squared_p_star: Bounds
    floor: Number
    frontier: list[FrontierPoint]
    field_error: list[FieldError]
    curves: list[KnownTargetCurve]


@dataclass(frozen=True, kw_only=True)
class LocatedCurve:
    """Squared W2 and excess of the exact lookahead at several times, and the squared W2 of the MMSE estimate."""

    squared_p_star: Bounds
    squared_w2: list[Bounds]
    excess: list[Bounds]


@dataclass(frozen=True, kw_only=True)
class TwoComponentsLevel:
    """Optimal assignment and bracket side by side, in two principal components, at one noise level."""

    noise_level: Number
    times: list[Number]
    mmse: Number
    floor: Number
    assignment: LocatedCurve
    bracket: LocatedCurve


@dataclass(frozen=True, kw_only=True)
class StationaryLaw:
    """The limit of plug-and-play at a fixed lookahead time `t`, in closed form and (`_run`) by running it."""

    t: Number
    shift: Number
    shift_run: Number
    variance: Number
    variance_run: Number
    free_variance: Number
    free_variance_run: Number


@dataclass(frozen=True, kw_only=True)
class KnownTargetResult:
    """What can be measured only if the images come from a known distribution."""

    truth: list[KnownTargetLevel]
    plug_and_play: list[StationaryLaw] | None = None
    two_components: list[TwoComponentsLevel] | None = None


@dataclass(frozen=True, kw_only=True)
class SolverRun:
    """One solver at one setting on one task: its cost and the quality of its restorations, or why it `failed`.

    If it failed, `steps` and the fields after it are None. `seeds` holds the matched measures of every seed, `change`
    what measures of an image differ from those of plug-and-play at t = s, with the standard errors (`_sem`).
    """

    task: str
    solver: str
    knob: str
    t_or_lookahead: Number | None
    steps: int | None = None
    data_residual: Number | None = None
    nfe: Number | None = None
    differentiated: Number | None = None
    seconds_per_image: Number | None = None
    measures: Measures = field(default_factory=dict)
    seeds: list[Measures] | None = None
    change: Measures | None = None
    failed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Match:
    """A baseline against plug-and-play's curve, at equal distortion and at equal perception."""

    task: str
    solver: str
    mse: Number
    psnr: Number
    kernel_distance: Number
    nfe: Number
    pnp_kernel_distance_at_equal_mse: Number | None
    pnp_mse_at_equal_kernel_distance: Number | None
    ahead: str


@dataclass(frozen=True, kw_only=True)
class TunedOptions:
    """The options chosen for a solver on a task; None where every setting of its grid failed."""

    task: str
    solver: str
    steps: int
    options: Measures | None


@dataclass(frozen=True, kw_only=True)
class SolverResult:
    """The comparison of solvers. `inverse_floor` is that of as many real images as were restored."""

    inverse: list[SolverRun]
    matched: list[Match]
    tuned: list[TunedOptions]
    inverse_floor: dict[str, NullInterval]
