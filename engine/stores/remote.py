"""Whether a server's address is this machine's own: only there may Redis and MongoDB be spoken to in the open."""

from __future__ import annotations

import ipaddress


def is_here(host: str) -> bool:
    """Say whether ``host`` is loopback, or the path of a Unix socket; a name other than localhost is not."""
    if not host or host.startswith("/"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    return address.is_loopback
