"""Errors made by the person at the keyboard, told apart from our own."""


def reason(error: BaseException) -> str:
    """What an error says, in part of a line."""
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__


def printable(text: str) -> str:
    """The text with everything that a terminal would not show as a character written out, in one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """Something given to fmdp cannot be used; its message is one line that names the value and the remedy."""
