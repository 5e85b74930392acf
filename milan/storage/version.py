"""The version of the package, which is stated here alone."""

__version__ = "0.2.0"
