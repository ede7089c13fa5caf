"""Listening on a port, or a sentence about why that cannot be."""

import contextlib
import errno
import os
import socket

from vna.errors import PortInUse, SettingsError

BACKLOG = 512
"""Connections the system holds for us: a department may connect all at once (field note 38)."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `PortInUse` if another program has the port, else `SettingsError`."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _not_listening(host, port, error) from error
    try:
        if os.name == "posix":  # elsewhere it would let two programs have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(where)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _not_listening(host, port, error) from error
    return listening


def _not_listening(host: str, port: int, error: OSError) -> SettingsError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(host, port)
    why = "this user may not" if error.errno == errno.EACCES else "it is no address of this machine"
    return SettingsError(f"The DICOM server cannot listen on {host}, port {port}: {why} ({error.strerror}).")
