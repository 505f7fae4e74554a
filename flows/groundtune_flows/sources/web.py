"""Pages and files on the web: conditional requests, robots.txt, limits, and no address that is not the web's."""

from __future__ import annotations

import gzip
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Literal
from urllib.parse import urljoin, urlsplit

import httpx
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring
from protego import Protego

from groundtune.addresses import ForbiddenAddress, check_peer, check_url
from groundtune.api.sources import HttpSource
from groundtune.errors import SourceError
from groundtune_flows.sources.found import (
    MAX_BYTES,
    Content,
    GoneFile,
    UnreadableFile,
    in_one_line,
    too_large,
)

AGENT = "Groundtune"
_SECONDS = 60.0
_REDIRECTS = 5
_MOST_PAGES = 10_000
_MOST_SITEMAPS = 50
_ROBOTS_BYTES = 500_000
#: Failures to reach a host in a row, after which its other pages are not tried in this run.
_PATIENCE = 3
_MARKS = {"etag": "If-None-Match", "modified": "If-Modified-Since"}


@dataclass(frozen=True, slots=True)
class FoundPage:
    """An address. Its fingerprint is only known once the server is asked: its ETag, else its Last-Modified."""

    uri: str
    web: Web
    fingerprint: Literal[None] = None
    awaited: bool = True

    @property
    def name(self) -> str:
        return urlsplit(self.uri).path

    def read(self, known: str | None = None) -> Content | None:
        return self.web.fetch(self.uri, known)


class Web:
    """The requests of one source. Threads may share it."""

    def __init__(self, credentials: Mapping[str, str]) -> None:
        """`credentials`: `username` and `password`, or `token`; sent to the host first asked, never after a redirect
        to another."""
        headers = {"User-Agent": AGENT, "Accept-Encoding": "gzip, deflate"}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(20.0, connect=10.0))
        self._auth: httpx.Auth | None = None
        if "token" in credentials:
            self._auth = _Bearer(credentials["token"])
        elif "username" in credentials:
            self._auth = httpx.BasicAuth(credentials["username"], credentials.get("password", ""))
        self._robots: dict[str, Protego | str] = {}
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._asking_robots = threading.Lock()

    def fetch(self, url: str, known: str | None = None, *, limit: int = MAX_BYTES) -> Content | None:
        """A page; None if the server says that it is still what `known` says.

        Raises:
            UnreadableFile: it can't be had, may not be fetched, or is too large.
            GoneFile: the server says that there is none any more.
        """
        kind, _, mark = (known or "").partition(":")
        headers = {_MARKS[kind]: mark} if kind in _MARKS else {}
        origin = here = url
        for _ in range(_REDIRECTS + 1):
            auth = self._auth if _origin(here) == _origin(origin) else None
            self._require_allowed(here, auth)
            response = self._get(here, headers, auth, limit)
            if isinstance(response, str):
                here = urljoin(here, response)
                continue
            if response.status_code == 304:
                return None
            if response.status_code in (404, 410):
                raise GoneFile(f"is gone: the server answered {response.status_code}")
            if not response.is_success:
                raise UnreadableFile(f"can't be fetched: the server answered {response.status_code}")
            media_type = response.headers.get("content-type", "").split(";", 1)[0].strip().lower() or None
            return Content(response.content, _fingerprint(response.headers), media_type)
        raise UnreadableFile(f"can't be fetched: more than {_REDIRECTS} redirects")

    def _get(
        self, url: str, headers: Mapping[str, str], auth: httpx.Auth | None, limit: int
    ) -> httpx.Response | str:
        """The answer with its body, or where it redirects to."""
        host = urlsplit(url).netloc
        if self._failures[host] >= _PATIENCE:
            raise UnreadableFile(f"can't be fetched: {host} did not answer {_PATIENCE} times")
        deadline = time.monotonic() + _SECONDS
        try:
            check_url(url)
            with self._client.stream("GET", url, headers=dict(headers), auth=auth) as response:
                check_peer(response)
                if response.has_redirect_location:
                    return str(response.headers["location"])
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > limit:
                        raise too_large()
                    if time.monotonic() > deadline:
                        raise UnreadableFile(f"took longer than {_SECONDS:.0f} s to come")
        except ForbiddenAddress as error:
            raise UnreadableFile(f"may not be fetched: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            with self._lock:
                self._failures[host] += 1
            raise UnreadableFile(f"can't be fetched: {in_one_line(error)}") from error
        with self._lock:
            self._failures[host] = 0
        return httpx.Response(response.status_code, headers=_plain(response.headers), content=bytes(body))

    def _require_allowed(self, url: str, auth: httpx.Auth | None) -> None:
        origin = _origin(url)
        with self._asking_robots:  # one thread reads the rules, the others wait for them
            rules = self._robots.get(origin)
            if rules is None:
                rules = self._robots[origin] = self._read_robots(origin, auth)
        if isinstance(rules, str):
            raise UnreadableFile(rules)
        if not rules.can_fetch(url, AGENT):
            raise UnreadableFile("may not be fetched: robots.txt of its host forbids it")

    def _read_robots(self, origin: str, auth: httpx.Auth | None) -> Protego | str:
        """The rules of a host, or why none of its pages may be fetched (RFC 9309, 2.3.1)."""
        here = f"{origin}/robots.txt"
        try:
            for _ in range(_REDIRECTS + 1):
                response = self._get(here, {}, auth if _origin(here) == origin else None, _ROBOTS_BYTES)
                if isinstance(response, str):
                    here = urljoin(here, response)
                    continue
                if response.status_code >= 500:
                    return f"may not be fetched: robots.txt of its host answered {response.status_code}"
                return Protego.parse(response.text if response.is_success else "")
        except UnreadableFile as error:
            return f"can't be fetched, as robots.txt of its host {error}"
        return Protego.parse("")


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def pages(source: HttpSource, web: Web, field: str) -> Iterator[tuple[str, FoundPage]]:
    """The addresses of a source, each once. Those of `urls` come with an empty path: no glob leaves them out.

    Raises:
        SourceError: the sitemap can't be read.
    """
    seen = set(source.urls or ())
    for url in dict.fromkeys(source.urls or ()):
        yield "", FoundPage(url, web)
    if source.sitemap is None:
        return
    for url in _sitemap(source.sitemap, web, f"{field}.http.sitemap"):
        if url not in seen:
            seen.add(url)
            yield urlsplit(url).path.lstrip("/") or "index.html", FoundPage(url, web)
        if len(seen) > _MOST_PAGES:
            raise SourceError(f"{field}.http.sitemap: {source.sitemap} lists more than {_MOST_PAGES} pages")


def _sitemap(start: str, web: Web, field: str) -> Iterator[str]:
    """Addresses of a sitemap, or of those that an index of sitemaps lists."""
    waiting, read = [start], 0
    while waiting:
        url = waiting.pop(0)
        read += 1
        if read > _MOST_SITEMAPS:
            raise SourceError(f"{field}: {start} leads to more than {_MOST_SITEMAPS} sitemaps")
        try:
            content = web.fetch(url)
            assert content is not None
            root = fromstring(_unpacked(content.data))
        except UnreadableFile as error:
            raise SourceError(f"{field}: {url} {error}") from error
        except (ParseError, DefusedXmlException, zlib.error, OSError, EOFError) as error:
            raise SourceError(f"{field}: {url} is not a sitemap: {in_one_line(error)}") from error
        locations = [each.text.strip() for each in root.iter() if _tag(each.tag) == "loc" and each.text]
        # a sitemap speaks for its own host only (sitemaps.org, "Sitemap file location")
        own = [each for each in locations if _origin(each) == _origin(start)]
        if _tag(root.tag) == "sitemapindex":
            waiting += own
        else:
            yield from own


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    with gzip.GzipFile(fileobj=BytesIO(data)) as packed:
        unpacked = packed.read(MAX_BYTES + 1)
    if len(unpacked) > MAX_BYTES:
        raise too_large()
    return unpacked


def _tag(name: str) -> str:
    return name.rpartition("}")[2]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _fingerprint(headers: httpx.Headers) -> str | None:
    if "etag" in headers:
        return f"etag:{headers['etag']}"
    if "last-modified" in headers:
        return f"modified:{headers['last-modified']}"
    return None


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Without what was undone on the way."""
    return {
        name: value for name, value in headers.items() if name not in ("content-encoding", "content-length")
    }
