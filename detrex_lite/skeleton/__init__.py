"""Writing new projects: a detector that starts as an existing one with a small, working difference."""

from .error import SkeletonError
from .project import Project, write_project
from .source import Source, read_source, source_names

__all__ = ["Project", "SkeletonError", "Source", "read_source", "source_names", "write_project"]
