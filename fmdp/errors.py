"""Errors made by the person at the keyboard, told apart from our own."""


class InputError(ValueError):
    """Something given to fmdp cannot be used; its message is one line that names the value and the remedy."""
