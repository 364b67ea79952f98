"""The error for projects that cannot be written."""


class SkeletonError(ValueError):
    """A project cannot be written: its name, its source or its folder is wrong."""
