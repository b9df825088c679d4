"""ssmlab: a lab and a library for selective state space models.

Importing this package imports torch and nothing heavier; subpackages load on first use.
"""

__version__ = "0.1.0"
