r"""Equations of Markdown as MathML, which browsers render themselves, without a script.

`$...$` is an equation in the line and `$$...$$` one of its own, as on GitHub and in docstrings.
"""

import re
import unicodedata
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

DISPLAYED = r"\$\$(.+?)\$\$"
VARIANT = r'<mi mathvariant="(double-struck|script|bold)">(\w)</mi>'
INLINE = r"(?<![\\$\w])\$(?=\S)([^$\n]+?(?:\n[^$\n]+?)*?)(?<=\S)\$(?![\w$])"


class _Inline(InlineProcessor):
    def __init__(self, pattern: str, md: Markdown, display: str) -> None:
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(self, m: Any, data: str) -> tuple[Any, int, int]:  # noqa: ARG002
        return self.md.htmlStash.store(_mathml(m[1], self.display)), m.start(0), m.end(0)


class _Block(BlockProcessor):
    """A paragraph that is one equation; blank lines within it are no end."""

    def test(self, parent: ElementTree.Element, block: str) -> bool:  # noqa: ARG002
        return block.startswith("$$")

    def run(self, parent: ElementTree.Element, blocks: list[str]) -> None:
        block = blocks.pop(0)
        found = re.match(DISPLAYED, block, re.DOTALL)
        if not found:
            raise ValueError(f"An equation has no end: {block[:80]}")
        paragraph = ElementTree.SubElement(parent, "p")
        paragraph.text = self.parser.md.htmlStash.store(_mathml(found[1], "block"))
        if rest := block[found.end() :].strip():
            blocks.insert(0, rest)


class _MathML(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(_Inline(DISPLAYED, md, "block"), "math-displayed", 186)
        md.inlinePatterns.register(_Inline(INLINE, md, "inline"), "math-inline", 185)
        md.parser.blockprocessors.register(_Block(md.parser), "math-block", 95)


def _mathml(equation: str, display: str) -> str:
    plain = re.sub(r"\\(?:bigr|bigl|Bigr|Bigl|big|Big)(?![a-zA-Z])", "", equation.strip())
    found = convert(plain, display=display).replace("&#x0005E;", "\u02c6")  # an accent, no operator
    return re.sub(VARIANT, _letter, found)


def _letter(found: re.Match[str]) -> str:
    """Return a letter of another alphabet as browsers know it: as a character of its own."""
    style, letter = found[1].upper(), found[2]
    kind = unicodedata.name(letter).replace("LATIN ", "").replace(" LETTER", "")
    for name in (f"MATHEMATICAL {style} {kind}", f"{style} {kind}"):  # ℝ, ℰ and others are older
        try:
            return f'<mi mathvariant="normal">{unicodedata.lookup(name)}</mi>'
        except KeyError:
            continue
    return found[0]


def makeExtension(**_: Any) -> _MathML:
    return _MathML()
