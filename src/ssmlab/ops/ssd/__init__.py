"""State space duality: the selective scan with one A a head, as matrix products over chunks."""

from ssmlab.ops.ssd.api import ssd, ssd_update
from ssmlab.ops.ssd.reference import ssd_reference

__all__ = ["ssd", "ssd_reference", "ssd_update"]
