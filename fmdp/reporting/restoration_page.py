"""The page of one restored picture: NAME.html, a self-contained file with the lookahead as a slider."""

import pathlib

from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8
from fmdp.reporting.contact_sheet import draw_sheet
from fmdp.reporting.templating import LOSSLESS, TEMPLATES, data_uri
from fmdp.restoration.image_files import is_image
from fmdp.restoration.request import Request
from fmdp.restoration.restore import Restored

QUALITY = 95  # of JPEG, which must show the noise


def draw_overview(target: pathlib.Path, restored: Restored, request: Request) -> None:
    """Write NAME.html and NAME_sheet.png of a picture that was restored at several lookaheads; target ends in NAME."""
    write_restoration_page(target.with_name(f"{target.name}.html"), restored, request)
    draw_sheet(target.with_name(f"{target.name}_sheet.png"), restored, request)


def write_restoration_page(path: pathlib.Path, restored: Restored, request: Request) -> None:
    """Write the page of a picture that was restored at several lookaheads atomically; its name is the page's title."""
    with atomic_write(path) as temporary:
        temporary.write_text(render_restoration_page(path.stem, restored, request), encoding="utf-8")


def render_restoration_page(name: str, restored: Restored, request: Request) -> str:
    """The page as HTML: the measurement beside the restoration that the slider picks, and the original if it is known.

    Of several samples it shows their mean.
    """
    pictures = [data_uri(to_uint8(samples.mean(0)), QUALITY) for samples in restored.images]
    fixed = {"measured": restored.measured} if is_image(restored.measured) else {}
    fixed |= {} if restored.clean is None else {"original": restored.clean}
    quality = restored.facts.get("psnr", [None] * len(pictures))
    readout = [
        f"lookahead {r:.2f}" + ("" if psnr is None else f": PSNR {psnr:.2f} dB")
        for r, psnr in zip(request.lookaheads, quality, strict=True)
    ]
    height, width, _ = restored.images.shape[2:]
    facts = {
        "size": f"{height} pixels high, {width} wide",
        "operator": request.name.replace("_", " "),
        "noise": _noise(restored.facts),
        "samples": f"the mean of {request.num_samples}" if request.num_samples > 1 else None,
        "tiles": restored.facts["tiles"] if restored.facts["tiles"] > 1 else None,
    }
    return TEMPLATES.get_template("restoration.html.j2").render(
        name=name,
        denoises=request.denoises,
        pictures=pictures,
        fixed={title: data_uri(to_uint8(picture), QUALITY) for title, picture in fixed.items()},
        readout=readout,
        facts={title: fact for title, fact in facts.items() if fact is not None},
        notes=[note.text for note in restored.notes],
        pixels=max(height, width) <= LOSSLESS,
    )


def _noise(facts: dict) -> str | None:
    """The standard deviation of the noise, in levels of 255, which people know."""
    if "sigma_255" not in facts:
        return None
    how = ", estimated from the picture" if facts["sigma_estimated"] else ""
    return f"standard deviation {facts['sigma_255']:.1f} of 255{how}"
