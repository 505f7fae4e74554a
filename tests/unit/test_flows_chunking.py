"""Chunking: what holds for any text, and how structure decides where it is cut."""

from __future__ import annotations

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from groundtune_flows.chunking import Chunk, Limits, chunk_text
from groundtune_flows.formats import Form

_LINES = st.sampled_from(
    [
        "# One",
        "## Two *and* `code`",
        "### Three",
        "A sentence. Another one! And a third?",
        "- item one\n- item two\n  more of two\n- item three",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
        "```\ncode line one\n\ncode line two\n```",
        "> quoted\n> lines",
        "word " * 40,
        "x" * 90,
        "Ünïcödé 日本語。次の文。 🙂🙂",
        "---",
        "",
    ]
)
_TEXTS = st.one_of(
    st.lists(_LINES, max_size=14).map("\n\n".join),
    st.lists(_LINES, max_size=14).map("\r\n".join),
    st.text(max_size=300),
)


def tokens(text: str) -> list[tuple[int, int]]:
    """Like WordPiece: words, in pieces of at most five letters, and single marks."""
    return [match.span() for match in re.finditer(r"\w{1,5}|[^\w\s]", text)]


def limits(max_tokens: int = 40, overlap: int = 0, window: int = 256) -> Limits:
    return Limits(max_tokens, overlap, window)


@settings(max_examples=300, deadline=None)
@given(text=_TEXTS, max_tokens=st.integers(3, 60), overlap=st.integers(0, 20), markdown=st.booleans())
def test_chunks_are_spans_within_the_limits_and_lose_nothing(
    text: str, max_tokens: int, overlap: int, markdown: bool
) -> None:
    bounds = limits(max_tokens, min(overlap, max_tokens - 1), window=64)
    chunks = chunk_text(text, tokens, bounds, Form.MARKDOWN if markdown else Form.PLAIN)
    covered: set[int] = set()
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip() == chunk.text != ""
        assert chunk.tokens == len(tokens(chunk.text)) <= max_tokens
        assert len(tokens(chunk.embedded)) <= bounds.window
        covered.update(range(chunk.start, chunk.end))
    assert all(at in covered for at, character in enumerate(text) if not character.isspace())
    assert [chunk.end for chunk in chunks] == sorted({chunk.end for chunk in chunks})
    for one, following in itertools.pairwise(chunks):
        repeated = len(tokens(text[following.start : one.end])) if following.start < one.end else 0
        assert repeated <= bounds.overlap_tokens
        assert following.start > one.start


def cut(text: str, max_tokens: int = 40, overlap: int = 0) -> list[Chunk]:
    return chunk_text(text, tokens, limits(max_tokens, overlap), Form.MARKDOWN)


def test_a_heading_starts_a_chunk_and_its_parents_are_the_context() -> None:
    filler = "Many words that fill the section to a fair size. " * 3
    first, second, third = cut(f"# Title\n\n{filler}\n\n## Sub\n\n{filler}\n\n### Deep\n\n{filler}")
    assert first.text.startswith("# Title\n\nMany")
    assert first.heading == ""
    assert (second.text.split("\n")[0], second.heading) == ("## Sub", "Title")
    assert (third.text.split("\n")[0], third.heading) == ("### Deep", "Title > Sub")
    assert third.embedded == f"Title > Sub\n{third.text}"


def test_what_a_section_goes_on_with_keeps_its_own_heading_as_context() -> None:
    first, *others = cut("## Sub\n\n" + "A sentence of six words here. " * 20)
    assert (first.heading, {chunk.heading for chunk in others}) == ("", {"Sub"})
    assert all(chunk.text.startswith("A sentence") for chunk in others)


def test_a_tiny_section_joins_the_next() -> None:
    (only,) = cut("# Title\n\n## Sub\n\nA few words.")
    assert only.text == "# Title\n\n## Sub\n\nA few words."


def test_blocks_stay_whole_where_they_fit() -> None:
    table = "| a | b |\n|---|---|\n| 1 | 2 |"
    code = "```\nfirst line\n\nsecond line\n```"
    paragraph = "Words of a paragraph that is not short at all. " * 2
    texts = [chunk.text for chunk in cut(f"{paragraph}\n\n{table}\n\n{paragraph}\n\n{code}", max_tokens=30)]
    assert any(table in text for text in texts)
    assert any(code in text for text in texts)


def test_a_long_list_is_cut_between_items_and_a_long_table_between_rows() -> None:
    items = "\n".join(f"- item number {number} of the list" for number in range(12))
    assert all(chunk.text.startswith("- item") for chunk in cut(items, max_tokens=20))
    rows = "| a | b |\n|---|---|\n" + "\n".join(f"| row{number} | value |" for number in range(20))
    assert all(chunk.text.endswith("|") for chunk in cut(rows, max_tokens=20))


def test_overlap_repeats_the_end_of_the_chunk_before() -> None:
    chunks = cut("One two three four five. " * 12, max_tokens=20, overlap=6)
    for one, following in itertools.pairwise(chunks):
        assert one.end - following.start > 0
        assert len(tokens(one.text[following.start - one.start :])) <= 6


def test_front_matter_is_no_heading() -> None:
    chunks = cut("---\ntitle: A page\n---\n# Real\n\nText under it.")
    assert [chunk.text for chunk in chunks] == ["---\ntitle: A page\n---", "# Real\n\nText under it."]


def test_only_markdown_has_headings() -> None:
    (only,) = chunk_text("# not a heading\n\nText.", tokens, limits(), Form.PLAIN)
    assert (only.heading, only.text) == ("", "# not a heading\n\nText.")
