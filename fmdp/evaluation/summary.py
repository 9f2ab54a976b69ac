"""Everything known about a run. summary.json is the serialisation of `Summary`; docs/summary.md describes every key."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from fmdp.errors import InputError
from fmdp.evaluation.results import (
    CalibrationTrial,
    DenoisingCurve,
    DenoisingResult,
    KnownTargetLevel,
    KnownTargetResult,
    Match,
    Measures,
    Number,
    Residuals,
    SolverResult,
    SolverRun,
    StationaryLaw,
    TunedOptions,
    TwoComponentsLevel,
)
from fmdp.io.dataclass_json import from_json, to_json
from fmdp.metrics.perception import NullInterval

SCHEMA_VERSION = 1
"""Of summary.json. A summary without a version, as 0.1.0 wrote it, is version 0; its keys mean the same."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a result was made: the command, the version of each library, and the configuration."""

    command: str
    versions: dict[str, str]
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything known about a run. What was not measured is None. The fields include those of all results."""

    schema_version: int = SCHEMA_VERSION
    config: str
    backend: str | None = None
    devices: int | None = None
    data: dict[str, Number | str] | None = None
    train: Measures | None = None
    started_from: dict[str, Number | str] | None = None
    images: int | None = None
    draws: int | None = None
    denoise: list[DenoisingCurve] | None = None
    floor: dict[str, NullInterval] | None = None
    residuals: list[Residuals] | None = None
    weights: dict[str, str] | None = None
    calibration: list[CalibrationTrial] | None = None
    made: Provenance | None = None
    truth: list[KnownTargetLevel] | None = None
    plug_and_play: list[StationaryLaw] | None = None
    two_components: list[TwoComponentsLevel] | None = None
    seconds: Measures | None = None
    inverse: list[SolverRun] | None = None
    matched: list[Match] | None = None
    tuned: list[TunedOptions] | None = None
    inverse_floor: dict[str, NullInterval] | None = None
    inverse_made: Provenance | None = None

    def add(self, result: DenoisingResult | KnownTargetResult | SolverResult) -> "Summary":
        """The summary with a result in it."""
        return dataclasses.replace(
            self, **{part.name: getattr(result, part.name) for part in dataclasses.fields(result)}
        )


def read_summary(value: dict[str, Any]) -> Summary:
    """The summary in a JSON object.

    Raises:
      InputError: it is not a summary, or one of a later version.
    """
    version = value.get("schema_version", 0)
    if version not in (0, SCHEMA_VERSION):
        raise InputError(f"its schema_version is {version!r}; this version of fmdp reads up to {SCHEMA_VERSION}")
    return from_json(Summary, value | {"schema_version": version}, "summary")


def digest(section: Any) -> str:
    """A hash of one section of a summary, which identifies the pictures that were made with it."""
    return hashlib.sha256(json.dumps(to_json(section)).encode()).hexdigest()[:16]
