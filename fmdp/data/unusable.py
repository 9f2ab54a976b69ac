"""The error of a picture file that cannot be used."""

import contextlib
from collections.abc import Iterator

from fmdp.errors import reason


class UnusableError(Exception):
    """An image file that cannot be used; the message says why.

    Attributes:
      parameter: the field of `ImagePreprocessor` that excludes it, or "" where no setting would admit it.
    """

    def __init__(self, message: str, parameter: str = ""):
        """The message, and the parameter that it names."""
        super().__init__(message)
        self.parameter = parameter


@contextlib.contextmanager
def damage_as_unusable() -> Iterator[None]:
    """UnusableError for whatever else the block raises; Pillow, zipfile and tfds raise many kinds for damaged files."""
    try:
        yield
    except UnusableError:
        raise
    except Exception as error:
        raise UnusableError(f"damaged: {reason(error)}") from error
