"""The version of this package, read by the build and by every generated file."""

__version__ = "0.2.0.dev0"
