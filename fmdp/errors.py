"""Mistakes of the person who uses fmdp, as opposed to faults of fmdp itself."""


def reason(error: BaseException) -> str:
    """The first line of an error's message, shortened to fit into a line of our own."""
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__


def printable(text: str) -> str:
    """The text in one line, with every character that a terminal would not show escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """Something given to fmdp cannot be used; its message is one line that names the value and the remedy."""


class ParameterError(InputError):
    """A parameter of a function or class that cannot be used, by the name that Python code gives it.

    The command line names its own flag instead, with the same remedy.

    Attributes:
      parameter: its name.
      remedy: what is wrong with its value and what to do.
    """

    def __init__(self, owner: str, parameter: str, value: object, remedy: str):
        """The message is `owner(parameter=value): remedy`."""
        super().__init__(f"{owner}({parameter}={' '.join(repr(value).split())[:100]}): {remedy}")
        self.parameter, self.remedy = parameter, remedy
