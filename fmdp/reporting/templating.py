"""What all pages share: the templates, and pictures within a page."""

import base64
import io
import json
import math
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

LOSSLESS = 96  # pixels a side; larger pictures become JPEG, so that the page stays small


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("fmdp.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    environment.tests["finite"] = _is_finite
    return environment


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEMPLATES = _templates()
"""The pages in `templates/`, which extend base.html.j2. All values are escaped, and an unknown one is an error."""


def data_uri(picture: np.ndarray, quality: int = 88) -> str:
    """A uint8 picture [H, W] or [H, W, 3] as a data URI; quality is that of JPEG."""
    lossless = max(picture.shape[:2]) <= LOSSLESS
    file = io.BytesIO()
    if lossless:
        Image.fromarray(picture).save(file, "PNG", optimize=True)
    else:
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"
