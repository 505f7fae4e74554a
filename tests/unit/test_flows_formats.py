"""Documents of every format, and files that are none."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
from pptx import Presentation

from groundtune_flows.chunking import Limits, chunk_text
from groundtune_flows.formats import Form, Text, parse
from groundtune_flows.formats.isolated import Converter
from groundtune_flows.sources.found import Content, UnreadableFile

Parse = Callable[..., Text]


@pytest.fixture(scope="module")
def parsed() -> Iterator[Parse]:
    """Parses as a refresh does: in a process of its own."""
    with Converter(seconds=30) as convert:
        yield lambda name, data, media_type=None: parse(name, Content(data, None, media_type), convert)


def pdf(*pages: str, extra: str = "") -> bytes:
    """A PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    body, offsets = "%PDF-1.4\n", []
    for number, entry in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{entry}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R {extra} >>"
    body += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n{trailer}\nstartxref\n{len(body)}\n%%EOF"
    return body.encode()


def docx(document: str) -> bytes:
    """A DOCX whose body is the given XML."""
    kinds = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{kinds}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
            '<Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{kinds}/relationships"><Relationship Id="r1" Type="{office}/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/styles.xml",
            f'<w:styles xmlns:w="{word}"><w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/>'
            "</w:style></w:styles>",
        )
        archive.writestr(
            "word/_rels/document.xml.rels",
            f'<Relationships xmlns="{kinds}/relationships"><Relationship Id="r1" Type="{office}/styles" '
            'Target="styles.xml"/></Relationships>',
        )
        archive.writestr(
            "word/document.xml", f'<w:document xmlns:w="{word}"><w:body>{document}</w:body></w:document>'
        )
    return made.getvalue()


def pptx() -> bytes:
    deck = Presentation()
    for title, body in (("Plans", "Studio costs 29 euros\nMaker costs 9 euros"), ("Limits", "Ten hubs")):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = body
    deck.slides[0].notes_slide.notes_text_frame.text = "Say it slowly."
    made = BytesIO()
    deck.save(made)
    return made.getvalue()


def test_a_page_is_its_main_part_under_its_title(parsed: Parse) -> None:
    page = (
        "<html><head><title>Hub &amp; lamp</title><script>track()</script></head><body><nav>Home</nav><main>"
        "<h2>Reset</h2><p>Hold <b>12</b> seconds.</p><ul><li>one</li><li>two</li></ul>"
        "<table><tr><th>Plan</th><th>Price</th></tr><tr><td>Studio</td><td>29</td></tr></table></main>"
        "<footer>Imprint</footer></body></html>"
    )
    for found in (parsed("page.html", page.encode()), parsed("/help", page.encode(), "text/html")):
        assert found.form is Form.MARKDOWN
        assert found.text.startswith("# Hub & lamp\n\n## Reset\n\nHold **12** seconds.\n\n- one\n- two\n")
        assert "| Studio | 29 |" in found.text
        assert not any(word in found.text for word in ("track", "Home", "Imprint"))


def test_a_page_in_its_own_encoding(parsed: Parse) -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body><p>Größe</p></body></html>'
    assert "Größe" in parsed("a.html", page.encode("iso-8859-1")).text


def test_restructured_text_has_headings_and_reads_no_file(parsed: Parse) -> None:
    found = parsed(
        "a.rst", b"Reset\n=====\n\nHold it.\n\n.. include:: /etc/passwd\n\nLater\n-----\n\n* one\n"
    )
    assert "# Reset" in found.text
    assert "- one" in found.text
    assert "root:" not in found.text


def test_a_pdf_knows_its_pages(parsed: Parse) -> None:
    found = parsed("a.pdf", pdf("The hub blinks blue.", "The lamp is amber."))
    assert [found.text[start:].split("\n")[0] for start in found.pages] == [
        "The hub blinks blue.",
        "The lamp is amber.",
    ]
    tokens = lambda text: [(n, n + 1) for n in range(len(text))]  # noqa: E731
    chunks = chunk_text(found.text, tokens, Limits(25, 0, 100), found.form, found.pages)
    assert [(chunk.text, chunk.page) for chunk in chunks] == [
        ("The hub blinks blue.", 1),
        ("The lamp is amber.", 2),
    ]


def test_a_word_document_by_its_styles(parsed: Parse) -> None:
    found = parsed(
        "a.docx",
        docx(
            '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Returns</w:t></w:r></w:p>'
            "<w:p><w:r><w:t>Within 45 days.</w:t></w:r></w:p>"
        ),
    )
    assert found.text == "# Returns\n\nWithin 45 days.\n"


def test_slides_are_pages_with_their_notes(parsed: Parse) -> None:
    found = parsed("a.pptx", pptx())
    assert found.text.startswith(
        "## Plans\n\n- Studio costs 29 euros\n- Maker costs 9 euros\n\nSay it slowly."
    )
    assert found.text[found.pages[1] :].startswith("## Limits\n\nTen hubs")


def test_records_name_their_columns(parsed: Parse) -> None:
    expected = "plan: Studio\nprice: 29\n\nplan: Maker\nprice: 9"
    assert parsed("a.csv", b"plan,price\nStudio,29\nMaker,9\n").text == expected
    assert parsed("a.csv", b"plan;price\nStudio;29\nMaker;9\n").text == expected
    records = [{"plan": "Studio", "price": 29}, {"plan": "Maker", "price": 9}]
    assert parsed("a.json", json.dumps(records).encode()).text == expected
    assert parsed("a.jsonl", "\n".join(map(json.dumps, records)).encode()).text == expected
    nested = {"plan": {"name": "Studio", "tags": ["a", "b"]}, "none": None, "steps": [{"do": 1}]}
    assert (
        parsed("a.json", json.dumps(nested).encode()).text
        == "plan.name: Studio\nplan.tags: a, b\nsteps[0].do: 1"
    )


def test_code_is_cut_between_its_definitions(parsed: Parse) -> None:
    code = "import os\n\n\ndef first():\n    a = 1\n\n    return a\n\n\ndef second():\n    return 2\n"
    found = parsed("a.py", code.encode())
    assert found.form is Form.CODE
    tokens = lambda text: [(n, n + 1) for n in range(len(text))]  # noqa: E731
    chunks = [chunk.text for chunk in chunk_text(found.text, tokens, Limits(52, 0, 100), found.form)]
    assert chunks == ["import os\n\n\ndef first():\n    a = 1\n\n    return a", "def second():\n    return 2"]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.pdf", b"", "is empty"),
        ("a.pdf", b"%PDF-1.4 and then nothing", "is not a PDF that can be read"),
        ("a.pdf", pdf("", ""), "holds no text; are its pages pictures"),
        (
            "a.pdf",
            pdf("x", extra=f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'00' * 32}> /U <{'11' * 32}> /P -4 >> "
                f"/ID [<{'22' * 16}> <{'22' * 16}>]"),
            "is encrypted",
        ),
        ("a.docx", b"\xd0\xcf\x11\xe0 an OLE file", "is not a DOCX file, or is encrypted"),
        ("a.pptx", docx(""), "is not a PPTX file"),
        ("a.json", b"{", "is not JSON"),
        ("a.jsonl", b"{}\n{", "line 2 is not JSON"),
        ("a.html", b"<html><body><script>1</script></body></html>", "is empty"),
        ("a.csv", b"plan\n\xff\xfe", "is not UTF-8"),
        ("a.md", b"a\0b", "is binary"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_what_can_not_be_taken_in_says_why(parsed: Parse, name: str, data: bytes, why: str) -> None:
    with pytest.raises(UnreadableFile, match=why):
        parsed(name, data)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(parsed: Parse) -> None:
    made = BytesIO(docx(""))
    with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/media/zeros", bytes(310_000_000))
    with pytest.raises(UnreadableFile, match="unpacks to more than 300 MB"):
        parsed("a.docx", made.getvalue())


def test_a_parser_that_dies_or_hangs_costs_its_file_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with Converter(seconds=20) as convert:
        assert convert("json", b'{"a": 1}')[0] == "a: 1"
        assert convert._pool is not None
        for process in (convert._pool._processes or {}).values():
            process.kill()
        with pytest.raises(UnreadableFile, match="made its parser crash"):
            convert("json", b'{"a": 1}')
        assert convert("json", b'{"a": 1}')[0] == "a: 1"
    with (
        Converter(seconds=0.001) as convert,
        pytest.raises(UnreadableFile, match="could not be parsed within"),
    ):
        convert("json", b'{"a": 1}')
