"""What a document is, and its text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath

from groundtune_flows.formats.attributes import Attributes, front_matter
from groundtune_flows.sources.found import Content, UnreadableFile


class Form(StrEnum):
    """What structure a text has."""

    MARKDOWN = "markdown"
    PLAIN = "plain"
    CODE = "code"


@dataclass(frozen=True)
class Text:
    """A document's text as it is stored.

    Args:
        pages: where each page (or slide) begins, where it has such.
        attributes: what it says of itself.
    """

    text: str
    form: Form
    pages: list[int] = field(default_factory=list)
    attributes: Attributes = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UnreadableFile("is empty" if not self.pages else "holds no text; are its pages pictures?")


_AS_IT_IS = {
    ".md": Form.MARKDOWN,
    ".markdown": Form.MARKDOWN,
    ".mdx": Form.MARKDOWN,
    ".txt": Form.PLAIN,
    ".text": Form.PLAIN,
}
#: Formats that are converted, by suffix; the values are names of `groundtune_flows.formats.convert`.
_CONVERTED = {
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".rst": "rst",
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
}
_BY_MEDIA_TYPE = {
    "text/html": ".html",
    "application/xhtml+xml": ".xhtml",
    "application/pdf": ".pdf",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/json": ".json",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
}
_DATA = (".csv", ".tsv", ".json", ".jsonl")
#: Suffixes of what is taken as a document where no glob says otherwise: data files and code mostly are something else.
DOCUMENTS = tuple(suffix for suffix in (*_AS_IT_IS, *_CONVERTED) if suffix not in _DATA)
#: Suffixes of source code, which is cut at its definitions.
_CODE = re.compile(
    r"\.(c|cc|cpp|cs|css|go|h|hpp|java|jsx?|kt|lua|php|pl|proto|py|r|rb|rs|scala|sh|sql|swift|tf|toml|tsx?|ya?ml|zig)"
)

#: Function of a converter's name and the bytes that gives Markdown, and where its pages begin.
Convert = Callable[[str, bytes], tuple[str, Form, list[int]]]


def parse(name: str, content: Content, convert: Convert) -> Text:
    """The text of a document.

    Args:
        name: ends in the suffix that tells the type; a media type of the content comes before it.
        convert: runs a converter; it raises UnreadableFile.

    Raises:
        UnreadableFile: it is empty, binary, broken, encrypted or wrongly encoded.
    """
    suffix = PurePosixPath(name).suffix.lower()
    told = _BY_MEDIA_TYPE.get(content.media_type or "")
    # a server may answer with a page about the file, or an address may say nothing of the type
    if told in (".html", ".xhtml") or (told is not None and suffix not in (*_AS_IT_IS, *_CONVERTED)):
        suffix = told
    if suffix in _CONVERTED:
        if not content.data:
            raise UnreadableFile("is empty")
        return Text(*convert(_CONVERTED[suffix], content.data))
    form = _AS_IT_IS.get(suffix, Form.CODE if _CODE.fullmatch(suffix) else Form.PLAIN)
    text = decode(content.data)
    return Text(text, form, attributes=front_matter(text) if form == Form.MARKDOWN else {})


def decode(data: bytes) -> str:
    """The text of a file that is one.

    Raises:
        UnreadableFile: it is empty, binary or not UTF-8.
    """
    if b"\0" in data:
        raise UnreadableFile("is binary, not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"is not UTF-8 (byte {error.start})") from error
    if not text.strip():
        raise UnreadableFile("is empty")
    return text
