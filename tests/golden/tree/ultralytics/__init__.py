"""A tree of the tests' own, with no more of Ultralytics' shape than a patch looks at."""

__version__ = "8.4.190"
