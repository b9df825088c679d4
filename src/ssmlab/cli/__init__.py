"""The command line: one thin file per command; the work is in the packages below."""

from ssmlab.cli.app import main

__all__ = ["main"]
