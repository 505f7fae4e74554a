"""Cutting a document into chunks along its own structure.

A chunk is a span of the source text. Cuts go where the strongest structure is: at headings, then between blocks
(paragraphs, lists, tables, code), then between list items and lines, sentences, words, and only then inside a word.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from groundtune_flows.formats import Form
from groundtune_flows.formats.attributes import FRONT_MATTER

#: Part of every recipe: raise it when the same text would be cut in another way, so that a new space is built.
CHUNKER = 1

#: Spans (start, end) of a text's tokens, in order.
Tokenize = Callable[[str], Sequence[tuple[int, int]]]

Span = tuple[int, int]

_NEWLINE = re.compile(r"\r\n?|\n")
_BLANK_LINES = re.compile(r"(?:[ \t]*(?:\r\n?|\n)){2,}")
_TOP_LEVEL = re.compile(r"(?:[ \t]*(?:\r\n?|\n)){2,}(?=[^\s})\]])")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])")
_WORD = re.compile(r"\s+")

#: A section with less than this share of maxTokens says too little alone: it is joined with the next if that fits.
_SMALL_SECTION = 0.25
#: Characters that are tokenized at once, and up to the end of their line.
_PIECE = 100_000
#: More than what cutting a text at a word can change in its number of tokens.
_EDGE_TOKENS = 8
#: Most of the model's window that a heading may take from the text.
_HEADING_SHARE = 0.25


@dataclass(frozen=True)
class Limits:
    """`window`: tokens that the model reads of heading and text together, without its special ones."""

    max_tokens: int
    overlap_tokens: int
    window: int


@dataclass(frozen=True)
class Chunk:
    """`text` is `source[start:end]`; `heading` names the headings above it that are not in `text` themselves.

    `page` is that on which it begins, counted from 1, where the document has pages.
    """

    start: int
    end: int
    text: str
    heading: str
    tokens: int
    page: int | None = None

    @property
    def embedded(self) -> str:
        """What the model reads."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


@dataclass(frozen=True)
class _Section:
    span: Span
    above: tuple[str, ...]
    title: str

    @property
    def path(self) -> tuple[str, ...]:
        return (*self.above, self.title) if self.title else self.above


@dataclass(frozen=True)
class _Outline:
    sections: list[_Section]
    blocks: list[int]
    items: list[int]


class _Ruler:
    """Counts tokens of spans, by the offsets of the text's tokens."""

    def __init__(self, text: str, tokenize: Tokenize) -> None:
        self._text = text
        self._tokenize = tokenize
        self.starts = array("I")
        start = 0
        while start < len(text):
            # line by line would cost more, and a large text at once a lot of memory
            line_end = text.find("\n", start + _PIECE)
            end = len(text) if line_end < 0 else line_end + 1
            self.starts.extend(start + at for at, _ in tokenize(text[start:end]))
            start = end

    def count(self, span: Span) -> int:
        return bisect_left(self.starts, span[1]) - bisect_left(self.starts, span[0])

    def exact(self, span: Span) -> int:
        """Of the span on its own: some tokenizers cut a word in another way where a text begins."""
        return len(self._tokenize(self._text[span[0] : span[1]]))

    def fits(self, span: Span, budget: int) -> bool:
        """Whether the span on its own has at most `budget` tokens; tokenizes it again only if it is close."""
        count = self.count(span)
        if abs(count - budget) > _EDGE_TOKENS:
            return count < budget
        return self.exact(span) <= budget


def chunk_text(
    text: str, tokenize: Tokenize, limits: Limits, form: Form = Form.PLAIN, pages: Sequence[int] = ()
) -> list[Chunk]:
    """Chunks of `text` in order; none is empty or above `limits.max_tokens`, and every non-blank character but
    those of overlaps is in exactly one.

    Args:
        pages: where each page begins, for texts that have such.
    """
    outline = _OUTLINES[form](text)
    ruler = _Ruler(text, tokenize)
    chunks: list[Chunk] = []
    for section in _joined(outline.sections, ruler, limits.max_tokens):
        first, later = _context(section.above, tokenize, limits), _context(section.path, tokenize, limits)
        taken = len(tokenize(later + "\n")) if later else 0
        budget = max(1, min(limits.max_tokens, limits.window - taken))
        # what is repeated comes out of the budget, and may not be all of it
        overlap = min(limits.overlap_tokens, budget - 1)
        levels = (
            [point for point in outline.blocks if section.span[0] < point < section.span[1]],
            [point for point in outline.items if section.span[0] < point < section.span[1]],
        )
        previous: Span | None = None
        for span in _cut(text, section.span, ruler, budget, budget - overlap, levels):
            whole = _with_overlap(text, span, previous, ruler, overlap, budget)
            heading = first if previous is None else later
            page = bisect_right(pages, whole[0]) if pages else None
            chunks.append(Chunk(*whole, text[whole[0] : whole[1]], heading, ruler.exact(whole), page))
            previous = span
    return chunks


def _joined(sections: Sequence[_Section], ruler: _Ruler, max_tokens: int) -> Iterator[_Section]:
    pending: _Section | None = None
    for section in sections:
        if pending is not None:
            both = (pending.span[0], section.span[1])
            if ruler.count(pending.span) < max_tokens * _SMALL_SECTION and ruler.count(both) <= max_tokens:
                pending = _Section(both, pending.above, "")
                continue
            yield pending
        pending = section
    if pending is not None:
        yield pending


def _context(path: Sequence[str], tokenize: Tokenize, limits: Limits) -> str:
    """`Heading > Sub`, without its outermost parts if it would leave the text too little room."""
    room = int(limits.window * _HEADING_SHARE)
    for first in range(len(path)):
        heading = " > ".join(path[first:])
        if len(tokenize(heading)) <= room:
            return heading
    return ""


def _cut(
    text: str, span: Span, ruler: _Ruler, budget: int, later_budget: int, levels: tuple[list[int], list[int]]
) -> list[Span]:
    """Spans of at most `later_budget` tokens (`budget` if the whole fits in one)."""
    span = _trimmed(text, span)
    if span[0] == span[1]:
        return []
    if ruler.fits(span, budget):
        return [span]
    return _pack(text, span, ruler, later_budget, levels, 0)


def _pack(
    text: str, span: Span, ruler: _Ruler, budget: int, levels: tuple[list[int], list[int]], level: int
) -> list[Span]:
    """Split at the cut points of `level`, join neighbours up to the budget, and split what is still too large."""
    packed: list[Span] = []
    open_span: Span | None = None
    for piece in _pieces(text, span, ruler, levels, level):
        joined = piece if open_span is None else (open_span[0], piece[1])
        if ruler.fits(joined, budget):
            open_span = joined
            continue
        if open_span is not None:
            packed.append(open_span)
            open_span = None
        if ruler.fits(piece, budget) or piece[1] - piece[0] == 1:
            open_span = piece
        else:
            packed.extend(_pack(text, piece, ruler, budget, levels, level + 1))
    if open_span is not None:
        packed.append(open_span)
    return packed


def _pieces(
    text: str, span: Span, ruler: _Ruler, levels: tuple[list[int], list[int]], level: int
) -> Iterator[Span]:
    points: Sequence[int]
    if level < len(levels):
        points = levels[level]
    elif level == 2:
        points = [match.end() for match in _NEWLINE.finditer(text, *span)]
    elif level == 3:
        points = [match.end() for match in _SENTENCE.finditer(text, *span)]
    elif level == 4:
        points = [match.end() for match in _WORD.finditer(text, *span)]
    elif level == 5:
        points = ruler.starts[bisect_right(ruler.starts, span[0]) : bisect_left(ruler.starts, span[1])]
    else:
        points = range(span[0] + 1, span[1])
    start = span[0]
    for point in (*points, span[1]):
        if span[0] < point <= span[1]:
            piece = _trimmed(text, (start, point))
            if piece[0] < piece[1]:
                yield piece
            start = point


def _with_overlap(
    text: str, span: Span, previous: Span | None, ruler: _Ruler, overlap: int, budget: int
) -> Span:
    """The span, begun earlier by up to `overlap` tokens of the one before, at a word."""
    if previous is None or overlap == 0:
        return span
    first = bisect_left(ruler.starts, span[0]) - overlap
    # never all of the chunk before
    earliest = max(previous[0] + 1, ruler.starts[max(0, first)])
    for start in (earliest, *(match.end() for match in _WORD.finditer(text, earliest, span[0]))):
        if text[start - 1].isspace() and not text[start].isspace() and ruler.fits((start, span[1]), budget):
            return (start, span[1])
    return span


def _trimmed(text: str, span: Span) -> Span:
    piece = text[span[0] : span[1]]
    start = span[0] + len(piece) - len(piece.lstrip())
    return (start, max(start, span[0] + len(piece.rstrip())))


def _plain_outline(text: str) -> _Outline:
    blocks = [match.end() for match in _BLANK_LINES.finditer(text)]
    return _Outline([_Section((0, len(text)), (), "")], blocks, [])


def _code_outline(text: str) -> _Outline:
    """Blocks begin where a line does that is not indented, after an empty one: definitions, in most languages."""
    blocks = [match.end() for match in _TOP_LEVEL.finditer(text)]
    items = [match.end() for match in _BLANK_LINES.finditer(text)]
    return _Outline([_Section((0, len(text)), (), "")], blocks, items)


def _markdown_outline(text: str) -> _Outline:
    front = FRONT_MATTER.match(text)
    offset = front.end() if front else 0
    lines = [offset, *(match.end() for match in _NEWLINE.finditer(text, offset))]

    def position(line: int) -> int:
        return lines[line] if line < len(lines) else len(text)

    tokens = MarkdownIt("commonmark").enable("table").parse(text[offset:])
    blocks = [offset]
    items: list[int] = []
    sections: list[_Section] = []
    path: list[tuple[int, str]] = []
    start, title = 0, ""
    above: tuple[str, ...] = ()
    for index, token in enumerate(tokens):
        if token.map is None or token.nesting < 0:
            continue
        at = position(token.map[0])
        if token.type in ("list_item_open", "tr_open"):
            items.append(at)
        if token.level > 0:
            continue
        if token.type == "heading_open":
            if text[start:at].strip():
                sections.append(_Section((start, at), above, title))
                start = at
            level = int(token.tag[1:])
            path = [entry for entry in path if entry[0] < level]
            above, title = tuple(name for _, name in path), _plain(tokens[index + 1])
            path.append((level, title))
        blocks.append(at)
    sections.append(_Section((start, len(text)), above, title))
    return _Outline(sections, sorted(set(blocks)), sorted(set(items)))


def _plain(inline: Token) -> str:
    """A heading's words, without its markup."""
    return " ".join(
        "".join(
            child.content for child in inline.children or [] if child.type in ("text", "code_inline")
        ).split()
    )


_OUTLINES: dict[Form, Callable[[str], _Outline]] = {
    Form.MARKDOWN: _markdown_outline,
    Form.PLAIN: _plain_outline,
    Form.CODE: _code_outline,
}
