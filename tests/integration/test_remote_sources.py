"""Git, web and database sources, each against a real server."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain
from sqlalchemy import text

from groundtune.addresses import ForbiddenAddress, check_url
from groundtune.api.knowledge_base import DocumentSource
from groundtune.errors import GroundtuneError
from groundtune.registry.database import connect
from groundtune_flows.reading import read_ahead
from groundtune_flows.sources.discovery import documents
from groundtune_flows.sources.found import Content, Found, GoneFile, Places, UnreadableFile, read_whole


@pytest.fixture
def where(tmp_path: Path) -> Places:
    return Places(
        *(tmp_path / name for name in ("volumes", "configmaps", "secrets", "cache")),
    )


def found(where: Places, **source: Any) -> dict[str, Found]:
    entry = DocumentSource.model_validate(source)
    return {file.uri: file for file in documents(entry, where, field="spec.sources[0]")}


def secret(where: Places, name: str, **keys: str) -> None:
    folder = where.secrets / name
    folder.mkdir(parents=True)
    for key, value in keys.items():
        (folder / key).write_text(f"{value}\n")


# -- git --------------------------------------------------------------------------------------------------------


@dataclass
class Git:
    """A repository behind HTTP, and what was asked of the server."""

    repo: Repo
    url: str
    packs: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, str | None], branch: str = "main") -> str:
        """Write (or with None remove) files, and commit them."""
        for name, content in files.items():
            path = Path(self.repo.path, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_text(content)
            self.repo.get_worktree().stage([name.encode()])
        author = b"Desk <desk@example.com>"
        made = self.repo.get_worktree().commit(b"change", committer=author, author=author)
        self.repo.refs[f"refs/heads/{branch}".encode()] = made
        return made.decode()


@pytest.fixture
def git(tmp_path: Path) -> Iterator[Git]:
    repo = Repo.init(str(tmp_path / "origin"), mkdir=True, default_branch=b"main")
    app = make_wsgi_chain(DictBackend({"/docs.git": repo}))
    served = Git(repo, "")

    def counting(environ: dict[str, Any], start: Any) -> Any:
        if environ["REQUEST_METHOD"] == "POST":
            served.packs.append(environ["PATH_INFO"])
        return app(environ, start)

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return None

    with make_server("127.0.0.1", 0, counting, handler_class=Quiet) as server:
        served.url = f"http://127.0.0.1:{server.server_port}/docs.git"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served
        server.shutdown()


def test_git_gives_a_commit_and_fetches_only_what_is_new(git: Git, where: Places) -> None:
    git.commit({"docs/a.md": "alpha", "docs/b.md": "beta", "other/c.md": "gamma", ".github/x.md": "hidden"})
    here = {"git": {"url": git.url, "ref": "main", "path": "docs"}}
    first = found(where, **here)
    prefix = f"git+{git.url}@main/docs/"
    assert list(first) == [f"{prefix}a.md", f"{prefix}b.md"]
    assert read_whole(first[f"{prefix}a.md"]) == b"alpha"
    asked = len(git.packs)
    again = found(where, **here)
    assert len(git.packs) == asked  # the commit was there: nothing was fetched
    for uri, file in again.items():
        assert file.read(first[uri].fingerprint) is None
    git.commit({"docs/a.md": "changed", "docs/b.md": None, "docs/deep/d.md": "delta"})
    third = found(where, **here)
    assert list(third) == [f"{prefix}a.md", f"{prefix}deep/d.md"]
    changed = third[f"{prefix}a.md"].read(first[f"{prefix}a.md"].fingerprint)
    assert changed is not None and changed.data == b"changed"


def test_git_refs_are_branches_tags_and_commits(git: Git, where: Places) -> None:
    old = git.commit({"a.md": "old"})
    git.repo.refs[b"refs/tags/v1"] = old.encode()  # type: ignore[assignment]
    git.commit({"a.md": "new"})
    texts = {
        ref: [read_whole(file) for file in found(where, git={"url": git.url, "ref": ref}).values()]
        for ref in ("", "main", "v1", old)
    }
    assert texts == {"": [b"new"], "main": [b"new"], "v1": [b"old"], old: [b"old"]}


def test_a_half_made_copy_is_made_anew(git: Git, where: Places) -> None:
    git.commit({"a.md": "alpha"})
    found(where, git={"url": git.url})
    (copy,) = (path for path in (where.cache / "git").iterdir() if path.is_dir())
    (copy / "HEAD").unlink()
    assert len(found(where, git={"url": git.url})) == 1


@pytest.mark.parametrize(
    ("source", "reason", "message"),
    [
        ({"ref": "nope"}, "SourceUnavailable", "spec.sources[0].git.ref: {url} has no nope"),
        ({"path": "nope"}, "SourceUnavailable", "spec.sources[0].git.path: nope does not exist in {url}"),
        ({"url": "http://127.0.0.1:1/x.git"}, "SourceUnavailable", "spec.sources[0].git.url: http://127.0.0.1:1/x"),
        ({"url": "http://169.254.169.254/x"}, "InvalidSpec", "spec.sources[0].git.url: 169.254.169.254 is a link"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_repository_is_named(
    git: Git, where: Places, source: dict[str, str], reason: str, message: str
) -> None:
    git.commit({"a.md": "alpha"})
    with pytest.raises(GroundtuneError) as caught:
        found(where, git={"url": git.url, **source})
    assert caught.value.reason == reason
    assert str(caught.value).startswith(message.format(url=git.url))


# -- the web ----------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A web server: answers by path, and how often each was asked."""

    url: str = ""
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)

    close: Callable[[], None] = lambda: None

    def put(self, path: str, body: str | bytes, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (status, named, body.encode() if isinstance(body, str) else body)


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked[self.path] += 1
            served.headers[self.path] = dict(self.headers.items())
            status, headers, body = served.pages.get(self.path, (404, {}, b""))
            known = self.headers.get("If-None-Match") or self.headers.get("If-Modified-Since")
            if known is not None and known in (headers.get("ETag"), headers.get("Last-Modified")):
                status, body = 304, b""
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    served.close = close
    yield served
    close()


def read(where: Places, url: str, known: str | None = None, **more: Any) -> Content | None:
    return found(where, http={"urls": [url]}, **more)[url].read(known)


@pytest.mark.parametrize("mark", [{"ETag": '"v1"'}, {"Last_Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}])
def test_an_unchanged_page_is_not_sent_again(site: Site, where: Places, mark: dict[str, str]) -> None:
    site.put("/a.html", "<p>alpha</p>", Content_Type="text/html; charset=utf-8", **mark)
    first = read(where, f"{site.url}/a.html")
    assert first is not None and first.fingerprint is not None
    assert (first.data, first.media_type) == (b"<p>alpha</p>", "text/html")
    assert read(where, f"{site.url}/a.html", first.fingerprint) is None
    site.put("/a.html", "<p>beta</p>", ETag='"v2"')
    second = read(where, f"{site.url}/a.html", first.fingerprint)
    assert second is not None and second.data == b"<p>beta</p>"


def test_robots_txt_is_honoured(site: Site, where: Places) -> None:
    site.put("/robots.txt", "User-agent: *\nDisallow: /private/\n")
    site.put("/private/a.html", "secret")
    with pytest.raises(UnreadableFile, match=r"robots\.txt of its host forbids it"):
        read(where, f"{site.url}/private/a.html")
    assert site.asked["/private/a.html"] == 0
    site.put("/robots.txt", "", status=503)
    with pytest.raises(UnreadableFile, match=r"robots\.txt of its host answered 503"):
        read(where, f"{site.url}/b.html")


def test_redirects_are_followed_but_not_everywhere(site: Site, where: Places) -> None:
    site.put("/old", "", status=301, Location="/new")
    site.put("/new", "here")
    followed = read(where, f"{site.url}/old")
    assert followed is not None and followed.data == b"here"
    site.put("/loop", "", status=302, Location="/loop")
    with pytest.raises(UnreadableFile, match="more than 5 redirects"):
        read(where, f"{site.url}/loop")
    for target in ("http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "http://[fe80::1]/"):
        site.put("/trap", "", status=302, Location=target)
        with pytest.raises(UnreadableFile, match=r"(may not|can.t) be fetched"):
            read(where, f"{site.url}/trap")


def test_credentials_stay_with_their_host(site: Site, where: Places) -> None:
    secret(where, "docs", token="s3cret")
    port = site.url.rsplit(":", 1)[1]
    site.put("/a", "", status=302, Location=f"http://localhost:{port}/b")
    site.put("/b", "there")
    assert read(where, f"{site.url}/a", secretRef={"name": "docs"}) is not None
    assert site.headers["/a"]["Authorization"] == "Bearer s3cret"
    assert "Authorization" not in site.headers["/b"]


def test_what_can_not_be_had_says_why(site: Site, where: Places) -> None:
    for status, error, why in ((404, GoneFile, "is gone"), (500, UnreadableFile, "answered 500")):
        site.put("/x", "", status=status)
        with pytest.raises(error, match=why):
            read(where, f"{site.url}/x")
    site.put("/big", bytes(20_000_001))
    with pytest.raises(UnreadableFile, match="larger than 20 MB"):
        read(where, f"{site.url}/big")
    site.put("/bomb", gzip.compress(bytes(30_000_000)), Content_Encoding="gzip")
    with pytest.raises(UnreadableFile, match="larger than 20 MB"):
        read(where, f"{site.url}/bomb")


def test_robots_txt_is_read_once(site: Site, where: Places) -> None:
    urls = [f"{site.url}/{number}" for number in range(6)]
    for number in range(6):
        site.put(f"/{number}", "text")
    files = list(found(where, http={"urls": urls}).values())
    assert all(isinstance(reading, Content) for _, reading in read_ahead(files, {}))
    assert site.asked["/robots.txt"] == 1


def test_a_host_that_goes_away_is_not_asked_for_every_page(site: Site, where: Places) -> None:
    pages = list(found(where, http={"urls": [f"{site.url}/{number}" for number in range(6)]}).values())
    site.put("/0", "text")
    assert pages[0].read() is not None
    site.close()
    said = []
    for page in pages[1:]:
        with pytest.raises(UnreadableFile) as caught:
            page.read()
        said.append(str(caught.value))
    assert ["did not answer 3 times" in each for each in said] == [False, False, False, True, True]


def test_a_sitemap_lists_pages_of_its_own_host(site: Site, where: Places) -> None:
    def sitemap(kind: str, *urls: str) -> str:
        entries = "".join(f"<url><loc>{url}</loc></url>" for url in urls)
        return f'<?xml version="1.0"?><{kind} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</{kind}>'

    inner = sitemap(
        "urlset", f"{site.url}/docs/a.html", f"{site.url}/blog/b.html", "http://elsewhere.example/c.html"
    )
    site.put("/sitemap.xml", sitemap("sitemapindex", f"{site.url}/pages.xml.gz"))
    site.put("/pages.xml.gz", gzip.compress(inner.encode()))
    source = {"http": {"sitemap": f"{site.url}/sitemap.xml"}}
    assert list(found(where, **source)) == [f"{site.url}/docs/a.html", f"{site.url}/blog/b.html"]
    assert list(found(where, **source, include=["docs/**"])) == [f"{site.url}/docs/a.html"]
    entity = '<!DOCTYPE x [<!ENTITY a "b">]><urlset><url><loc>&a;</loc></url></urlset>'
    for body, why in ((entity, "is not a sitemap"), ("no xml", "is not a sitemap")):
        site.put("/sitemap.xml", body)
        with pytest.raises(GroundtuneError, match=why):
            found(where, **source)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://[::ffff:169.254.169.254]/",
        "http://metadata.google.internal/",
        "http://100.100.100.200/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0/",
        "ftp://example.com/",
        "http://2852039166/",  # 169.254.169.254 as one number
    ],
)
def test_addresses_that_are_not_fetched_from(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        check_url(url)


# -- databases and ConfigMaps -----------------------------------------------------------------------------------


def test_rows_are_documents(postgres_url: str, where: Places) -> None:
    secret(where, "crm", url=postgres_url)
    engine = connect(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE articles (id int, title text, body text)"))
        connection.execute(
            text("INSERT INTO articles VALUES (1, 'Plans', 'Studio: 29 euros, 100%'), (2, NULL, 'Ten hubs')")
        )
    engine.dispose()
    source = {"secretRef": {"name": "crm"}}
    query = (
        "SELECT id, title, body AS text FROM articles WHERE body LIKE '%' AND id::text <> ':x' ORDER BY id"
    )
    rows = found(where, sql={"query": query}, **source)
    assert {uri: read_whole(row) for uri, row in rows.items()} == {
        "sql://crm/1": b"# Plans\n\nStudio: 29 euros, 100%",
        "sql://crm/2": b"Ten hubs",
    }
    more = "SELECT id, body AS text, id * 1.5 AS price, title IS NULL AS bare, now() AS t FROM articles"
    contents = [row.read() for row in found(where, sql={"query": more}, **source).values()]
    said = [content.attributes for content in contents if content is not None]
    assert [(each["price"], each["bare"]) for each in said] == [(1.5, False), (3.0, True)]
    assert str(said[0]["t"]).startswith("20")
    wrong = {
        "SELECT id FROM articles": "gives no column text",
        "SELECT 1 AS id, body AS text FROM articles": "gives the id '1' twice",
        "SELECT nothing": 'column "nothing" does not exist',
        "WITH d AS (DELETE FROM articles RETURNING id) SELECT id, id AS text FROM d": "refuses",
    }
    for query, why in wrong.items():
        with pytest.raises(GroundtuneError, match=why) as caught:
            found(where, sql={"query": query}, **source)
        assert str(caught.value).startswith("spec.sources[0].sql")


def test_a_password_is_in_no_message(where: Places) -> None:
    secret(where, "away", url="postgresql://user:hunter2@127.0.0.1:1/db?connect_timeout=2")
    secret(where, "odd", url="hunter2")
    for name in ("away", "odd"):
        with pytest.raises(GroundtuneError) as caught:
            found(where, sql={"query": "SELECT 1"}, secretRef={"name": name})
        assert "hunter2" not in str(caught.value)
        assert caught.value.reason == "SourceUnavailable"


def test_a_missing_secret_is_named(where: Places) -> None:
    with pytest.raises(GroundtuneError, match=r"spec\.sources\[0\]\.secretRef\.name: gone is not mounted"):
        found(where, http={"urls": ["http://127.0.0.1:1/"]}, secretRef={"name": "gone"})


def test_entries_of_a_config_map_are_files(where: Places) -> None:
    folder = where.config_maps / "faq"
    (folder / "..2030").mkdir(parents=True)
    (folder / "..2030" / "a.md").write_text("alpha")
    (folder / "a.md").symlink_to("..2030/a.md")  # as the kubelet mounts it
    (entry,) = found(where, configMap={"name": "faq"}).values()
    assert (entry.uri, read_whole(entry)) == ("configmap://faq/a.md", b"alpha")
