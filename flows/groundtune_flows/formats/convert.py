"""Converters, each from bytes to Markdown or plain text. They are run apart: see `isolated`.

What a format can't say in text (pictures, scripts, styles) is left out; headings, lists, tables and pages stay.
"""

from __future__ import annotations

import csv as csv_module
import json as json_module
import zipfile
from collections.abc import Iterable, Iterator
from io import BytesIO, StringIO
from typing import Any

from groundtune_flows.formats.text import Form, decode
from groundtune_flows.sources.found import UnreadableFile

Converted = tuple[str, Form, list[int]]

#: Most that an archive (DOCX, PPTX) may unpack to, in bytes.
_UNPACKED = 300_000_000
_NO_TEXT = (
    "script",
    "style",
    "noscript",
    "template",
    "nav",
    "footer",
    "aside",
    "form",
    "svg",
    "iframe",
    "button",
)


def html(data: bytes) -> Converted:
    """The main part of a page, under its title where it has no heading of its own."""
    from bs4 import BeautifulSoup

    page = BeautifulSoup(data, "lxml")
    for element in page(_NO_TEXT):
        element.decompose()
    body = page.find("main") or page.find(role="main") or page.find("article") or page.body or page
    text = _markdown(str(body))
    title = page.title.get_text(" ", strip=True) if page.title else ""
    if title and body.find("h1") is None:
        text = f"# {title}\n\n{text}"
    return text, Form.MARKDOWN, []


def rst(data: bytes) -> Converted:
    """Nothing is read from disk or passed through on the text's behalf."""
    from docutils.core import publish_parts

    settings = {
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "report_level": 5,
        "halt_level": 5,
        "_disable_config": True,
        "doctitle_xform": False,
    }
    parts = publish_parts(decode(data), writer="html5", settings_overrides=settings)
    return _markdown(parts["html_body"]), Form.MARKDOWN, []


def pdf(data: bytes) -> Converted:
    """The text of its pages, one after another."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise UnreadableFile("is encrypted") from None
        raise UnreadableFile("is not a PDF that can be read") from None
    texts = []
    for page in document:
        textpage = page.get_textpage()
        texts.append(textpage.get_text_bounded().replace("\r\n", "\n").replace("\0", "").strip())
        textpage.close()
        page.close()
    return _pages(texts, Form.PLAIN)


def docx(data: bytes) -> Converted:
    """Headings, lists and tables as Word's styles say them."""
    import mammoth

    _require_archive(data, "DOCX", "word/document.xml")
    return _markdown(mammoth.convert_to_html(BytesIO(data)).value), Form.MARKDOWN, []


def pptx(data: bytes) -> Converted:
    """Each slide a section under its title, with its notes."""
    from pptx import Presentation

    _require_archive(data, "PPTX", "ppt/presentation.xml")
    slides = []
    for number, slide in enumerate(Presentation(BytesIO(data)).slides, start=1):
        title = slide.shapes.title
        heading = title.text_frame.text.strip() if title is not None else ""
        parts = [f"## {' '.join(heading.split()) or f'Slide {number}'}"]
        parts += [part for shape in _shapes(slide.shapes) if shape != title for part in _shape_text(shape)]
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            parts.append(slide.notes_slide.notes_text_frame.text.strip())
        slides.append("\n\n".join(part for part in parts if part))
    return _pages(slides, Form.MARKDOWN)


def csv(data: bytes) -> Converted:
    """Each row a paragraph that names its columns, so that it can be understood alone."""
    text = decode(data)
    try:
        dialect: Any = csv_module.Sniffer().sniff(text[:8192], delimiters=",;\t|")
    except csv_module.Error:
        dialect = csv_module.excel
    try:
        rows = list(csv_module.reader(StringIO(text), dialect))
    except csv_module.Error as error:
        raise UnreadableFile(f"is not a CSV file that can be read: {error}") from error
    header, *body = rows
    return _records(zip(header, row, strict=False) for row in body), Form.PLAIN, []


def json(data: bytes) -> Converted:
    """Each object of a list a paragraph; of anything else, one."""
    try:
        loaded = json_module.loads(decode(data))
    except ValueError as error:
        raise UnreadableFile(f"is not JSON: {error}") from error
    return _records(map(_flat, loaded if isinstance(loaded, list) else [loaded])), Form.PLAIN, []


def jsonl(data: bytes) -> Converted:
    """Each line a paragraph."""
    records = []
    for number, line in enumerate(decode(data).split("\n"), start=1):
        if line.strip():
            try:
                records.append(_flat(json_module.loads(line)))
            except ValueError:
                raise UnreadableFile(f"line {number} is not JSON") from None
    return _records(records), Form.PLAIN, []


def _markdown(page: str) -> str:
    from markdownify import ATX, MarkdownConverter

    converter = MarkdownConverter(
        heading_style=ATX,
        bullets="-",
        strip=["img", "a"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )
    lines = [line.rstrip() for line in converter.convert(page).split("\n")]
    kept = [line for number, line in enumerate(lines) if line or (number and lines[number - 1])]
    return "\n".join(kept).strip() + "\n"


def _pages(texts: Iterable[str], form: Form) -> Converted:
    starts, whole = [], ""
    for text in texts:
        starts.append(len(whole))
        whole += f"{text}\n\n" if text else ""
    return whole, form, starts


def _records(records: Iterable[Iterable[tuple[str, Any]]]) -> str:
    lines = (
        "\n".join(f"{name}: {value}" for name, value in record if value not in ("", None))
        for record in records
    )
    return "\n\n".join(line for line in lines if line)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by the path to them: `price.amount`, `tags`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and all(not isinstance(each, dict | list) for each in value):
        yield name or "value", ", ".join(map(str, value))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{number}]")
    else:
        yield name or "value", value


def _require_archive(data: bytes, kind: str, member: str) -> None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    except zipfile.BadZipFile:
        raise UnreadableFile(f"is not a {kind} file, or is encrypted") from None
    if member not in sizes:
        raise UnreadableFile(f"is not a {kind} file")
    if sum(sizes.values()) > _UNPACKED:
        raise UnreadableFile(f"unpacks to more than {_UNPACKED // 1_000_000} MB")


def _shapes(shapes: Any) -> Iterator[Any]:
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _shape_text(shape: Any) -> Iterator[str]:
    if getattr(shape, "has_table", False):
        rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in shape.table.rows]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        yield "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
    elif shape.has_text_frame:
        lines = [paragraph.text.strip() for paragraph in shape.text_frame.paragraphs]
        yield "\n".join(f"- {line}" for line in lines if line) if len(lines) > 1 else lines[0]
