"""Where content comes from: documents of a knowledge base, examples of a fine-tune job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from groundtune.api.common import ApiModel, Name, cel, exactly_one, rules, worded

SourceKind = Literal["volume", "object", "git", "http", "configMap", "sql"]
_KINDS: tuple[SourceKind, ...] = ("volume", "object", "git", "http", "configMap", "sql")
_NO_DOTS = cel("!self.matches('(^|/)[.][.](/|$)')", "may not contain '..': it has to stay inside the source")
RelativePath = Annotated[
    str, Field(max_length=512, pattern=r"^([^/].*)?$", json_schema_extra=rules(_NO_DOTS))
]
WebUrl = Annotated[
    str,
    Field(min_length=8, max_length=2048),
    *worded(
        r"^https?://[^\s/@]+(/\S*)?$",
        "has to be http://… or https://…, without a user or password: those belong into a Secret",
    ),
]


class SecretReference(ApiModel):
    """A Secret in the resource's namespace."""

    name: Name = Field(description="Name of the Secret.")


class VolumeSource(ApiModel):
    """Files on a PersistentVolumeClaim, mounted read-only where the run happens."""

    claim_name: Name = Field(description="Name of the PersistentVolumeClaim, in the resource's namespace.")
    path: RelativePath = Field(
        "",
        description="File or folder inside the volume; empty means all of it. It may not leave the volume.",
    )


class ObjectSource(ApiModel):
    """Files under a URI that fsspec understands."""

    uri: Annotated[
        str,
        Field(min_length=1, max_length=1024),
        *worded(
            r"^[a-z][a-z0-9+.-]*://.+",
            "has to be an fsspec URI, such as s3://bucket/prefix; for http and https there is the kind http",
            "!self.matches('^https?://')",
        ),
    ] = Field(
        description="Any fsspec URI of a file or folder: s3://bucket/prefix, gs://…, az://…, file:///…."
    )


class GitSource(ApiModel):
    """Files of a commit."""

    url: WebUrl = Field(
        description="Repository, as `git clone` takes it over HTTP: https://host/owner/name.git."
    )
    ref: str = Field(
        "",
        max_length=256,
        pattern=r"^[\w./@+-]*$",
        description="Branch, tag or full commit id; empty means the repository's default branch.",
    )
    path: RelativePath = Field("", description="File or folder in the repository; empty means all of it.")


class HttpSource(ApiModel):
    """Pages and files on the web. robots.txt is honoured."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel("has(self.urls) || has(self.sitemap)", "give urls, or a sitemap, or both")
        )
    )

    urls: list[WebUrl] | None = Field(
        None, min_length=1, max_length=1000, description="Addresses to fetch; links on them are not followed."
    )
    sitemap: WebUrl | None = Field(
        None,
        description="Address of a sitemap (or an index of sitemaps) that lists more; only its own host's are taken.",
    )


class ConfigMapSource(ApiModel):
    """The entries of a ConfigMap, each a file."""

    name: Name = Field(description="Name of the ConfigMap, in the resource's namespace.")


class SqlSource(ApiModel):
    """Rows of a database, each a document. The entry's secretRef has the database's URL under the key `url`."""

    query: str = Field(
        min_length=1,
        max_length=8192,
        description="A SELECT that gives the columns `id` and `text`, and if there is one `title`. It is run in a "
        "transaction that may only read, where the database knows such.",
    )


class Source(ApiModel):
    """Where content comes from: exactly one kind of source an entry."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            exactly_one(*_KINDS, what="kind of source in an entry"),
            cel(
                "!has(self.sql) || has(self.secretRef)", "sql needs a secretRef whose Secret has the key url"
            ),
        )
    )

    volume: VolumeSource | None = Field(None, description="Files on a PersistentVolumeClaim.")
    object: ObjectSource | None = Field(
        None, description="Files in an object store or any other fsspec location."
    )
    git: GitSource | None = Field(None, description="Files of a git repository.")
    http: HttpSource | None = Field(None, description="Pages and files on the web.")
    config_map: ConfigMapSource | None = Field(None, description="Entries of a ConfigMap.")
    sql: SqlSource | None = Field(None, description="Rows of a database.")
    secret_ref: SecretReference | None = Field(
        None,
        description="Credentials. Keys: `username` and `password` (git, http), `token` (http, as a bearer token; git, "
        "as the password), `url` (sql), and for object the options of its fsspec filesystem by name.",
    )

    @property
    def kind(self) -> SourceKind:
        """The one that is given."""
        return next(kind for kind in _KINDS if getattr(self, "config_map" if kind == "configMap" else kind))
