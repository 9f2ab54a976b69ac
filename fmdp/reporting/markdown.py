"""Lines of tables in Markdown."""

from collections.abc import Mapping, Sequence

from fmdp.evaluation.results import Number


def table_row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def table_rule(cells: Sequence[str]) -> str:
    """The line below a header of these cells."""
    return f"|---|{'---|' * (len(cells) - 1)}"


def signed(change: Mapping[str, Number], name: str, decimals: int) -> str:
    """A mean difference with its sign and, where it is known, its standard error, which is called NAME_sem."""
    error = f" ± {change[f'{name}_sem']:.{decimals}f}" if f"{name}_sem" in change else ""
    return f"{change[name]:+.{decimals}f}{error}"
