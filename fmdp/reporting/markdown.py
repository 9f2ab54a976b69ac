"""Lines of tables in Markdown."""

from collections.abc import Sequence


def table_row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def table_rule(cells: Sequence[str]) -> str:
    """The line below a header of these cells."""
    return f"|---|{'---|' * (len(cells) - 1)}"
