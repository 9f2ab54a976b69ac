"""Which version of a package is installed."""

from importlib import metadata


def installed_version(package: str) -> str:
    """The version of a package by the name of its distribution, or that it is not installed as one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
