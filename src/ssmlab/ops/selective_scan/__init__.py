"""The selective scan: h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t."""

from ssmlab.ops.selective_scan.api import available_backends, selective_scan
from ssmlab.ops.selective_scan.field import selective_scan_fn
from ssmlab.ops.selective_scan.state_update import selective_state_update
from ssmlab.ops.selective_scan.update import selective_scan_update

__all__ = [
    "available_backends",
    "selective_scan",
    "selective_scan_fn",
    "selective_scan_update",
    "selective_state_update",
]
