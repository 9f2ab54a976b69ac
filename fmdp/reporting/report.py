"""The report of a run: its pictures, its page and its animation."""

import pathlib

from fmdp.evaluation.summary import Summary
from fmdp.reporting.animation import write_gif
from fmdp.reporting.html_page import write_page
from fmdp.reporting.panels import build_panels
from fmdp.reporting.pictures import GROUPS, Pictures, load_pictures, save_pictures


def write_report(workdir: pathlib.Path, summary: Summary, pictures: Pictures) -> None:
    """Write pictures.npz, report.html and, if denoising was measured, knob.gif.

    Args:
      workdir: of the run.
      summary: everything known about the run.
      pictures: the new ones. Those of other groups stay if they belong to the numbers in the summary.
    """
    path = workdir / "pictures.npz"
    new = {name.split("/")[0] for name in pictures}
    for group in GROUPS:
        if group not in new:
            pictures = load_pictures(path, group, summary) | pictures
    save_pictures(path, pictures, summary)
    write_page(workdir / "report.html", summary, pictures)
    levels = [panel for panel in build_panels(summary, pictures) if panel.group == "Denoising"]
    if levels:
        write_gif(workdir / "knob.gif", levels[-1])
