"""Trusting the throw-away authority of a simulated venue, and no more than that."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ConfigError


def trust(context: ssl.SSLContext, path: str) -> None:
    """Let ``context`` also trust the authority in ``path``, if it can vouch for loopback names only.

    The name constraints (RFC 5280 §4.2.1.10) are what keeps its key, which lies about on this machine,
    from vouching for a real broker; OpenSSL enforces them.

    Raises:
        ConfigError: the file cannot be read, or its authority is not constrained to loopback.
    """
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        if not _only_loopback(constraints.value.permitted_subtrees or []):
            raise ConfigError(f"engine.simulated_ca: {path} may vouch for more than this machine")
        context.load_verify_locations(path)
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(
            f"engine.simulated_ca: {path} is not the CA file that `simbroker --tls` writes: {error}"
        ) from None


def _only_loopback(permitted: Sequence[object]) -> bool:
    from cryptography import x509

    names = [name.value for name in permitted if isinstance(name, x509.DNSName)]
    nets = [name.value for name in permitted if isinstance(name, x509.IPAddress)]
    # A kind of name that is not listed is not constrained, so both kinds must be.
    return (
        names == ["localhost"]
        and bool(nets)
        and len(names) + len(nets) == len(permitted)
        and all(
            isinstance(net, ipaddress.IPv4Network | ipaddress.IPv6Network) and net.is_loopback
            for net in nets
        )
    )
