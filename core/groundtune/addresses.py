"""Which addresses may be fetched from: a spec must not make a run ask what only its own machine can reach.

Link-local addresses are where clouds hand out a machine's credentials. Private addresses are allowed: documents of
an intranet are what knowledge bases are for.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import httpx

#: Metadata services outside the link-local ranges: AWS over IPv6, Alibaba Cloud, Oracle Cloud.
_METADATA = {ip_address(each) for each in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")}
_METADATA_NAMES = {"metadata.google.internal", "metadata.goog", "metadata"}


class ForbiddenAddress(Exception):
    """An address that is not fetched from; the text says why."""


Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """The host's addresses.

    Raises:
        OSError: it has none.
    """
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def check_url(url: str, resolved: Resolve = resolve) -> None:
    """Check where a URL leads.

    Raises:
        ForbiddenAddress: it is not http(s), or one of the host's addresses is link-local or a metadata service's.
        OSError: the host has no address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ForbiddenAddress(f"{url} is neither http nor https")
    if parts.hostname.rstrip(".") in _METADATA_NAMES:
        raise ForbiddenAddress(f"{parts.hostname} is a metadata service")
    for address in resolved(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)):
        check_address(address)


def check_peer(response: httpx.Response) -> None:
    """Check where a streamed response comes from: a name may lead elsewhere by now than when its URL was checked.

    Raises:
        ForbiddenAddress: as `check_address`.
    """
    peer = response.extensions["network_stream"].get_extra_info("server_addr")
    if peer:
        check_address(peer[0])


def check_address(text: str) -> None:
    """Check one address.

    Raises:
        ForbiddenAddress: it is link-local, a metadata service's, or no single machine's.
    """
    address: IPv4Address | IPv6Address = ip_address(text.split("%", 1)[0])
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or address
    if address.is_link_local or address in _METADATA:
        raise ForbiddenAddress(f"{text} is a link-local or metadata address")
    if address.is_multicast or address.is_unspecified:
        raise ForbiddenAddress(f"{text} is not the address of a machine")
