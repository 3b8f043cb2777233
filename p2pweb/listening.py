"""Where a server listens, as people see it: the URLs that reach it, and why it cannot listen."""

import errno
import resource
import socket
from dataclasses import replace

from p2pweb.address import format_address
from p2pweb.errors import UsageError
from p2pweb.http.server import HttpServer
from p2pweb.http.service import ServerLimits

# Answers in flight when a server is told to stop.
GRACE_S = 5.0
# Descriptors for all but visitors: the store, the overlay, other peers.
OTHER_DESCRIPTORS = 256


def server_limits() -> ServerLimits:
    """The limits of a server, with no more connections than this process has descriptors for."""
    granted, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = ServerLimits()
    if granted == resource.RLIM_INFINITY:
        return limits
    affordable = max(1, (granted - OTHER_DESCRIPTORS) // 2)
    return replace(limits, connections_max=min(limits.connections_max, affordable))


def urls_of(server: HttpServer) -> list[str]:
    """Where a browser on this machine, and on others, finds a server."""
    urls: list[str] = []
    for host, port in server.addresses:
        hosts = ["127.0.0.1", *_addresses_of_this_machine()]
        reached = hosts if host in ("::", "0.0.0.0") else [host]  # noqa: S104
        urls += [f"http://{format_address((name, port))}/" for name in reached]
    return list(dict.fromkeys(urls))


def listen_fault(error: OSError, port: int) -> UsageError:
    """Why nothing can listen on a port, and what to do."""
    # uvloop tells the cause of a failed UDP bind as the cause alone.
    while error.errno is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if error.errno == errno.EADDRINUSE:
        return UsageError(f"port {port} is in use by another program: choose another with --port")
    if error.errno == errno.EACCES:
        return UsageError(
            f"port {port} may not be used by this user: choose one above 1023 with --port"
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return UsageError(f"this machine has no such address to listen on: {error.strerror}")
    return UsageError(f"cannot listen on port {port}: {error.strerror or error}")


def _addresses_of_this_machine() -> list[str]:
    """The address from which this machine would reach others: no packet is sent to find out."""
    found: list[str] = []
    # RFC 5737 and RFC 3849: addresses for documentation, which route like any other.
    for family, there in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((there, 9))
                found.append(probe.getsockname()[0])
        except OSError:
            continue
    return found
