r"""Equations of Markdown as MathML, which browsers render themselves, without a script.

`$...$` is an equation in the line and `$$...$$` one of its own, as on GitHub and in docstrings.
"""

import re
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

DISPLAYED = r"\$\$(.+?)\$\$"
INLINE = r"(?<![\\$\w])\$(?=\S)([^$\n]+?(?:\n[^$\n]+?)*?)(?<=\S)\$(?![\w$])"


class _Inline(InlineProcessor):
    def __init__(self, pattern: str, md: Markdown, display: str) -> None:
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(self, m: Any, data: str) -> tuple[Any, int, int]:  # noqa: ARG002
        equation = convert(_plain(m[1]), display=self.display)
        return self.md.htmlStash.store(equation), m.start(0), m.end(0)


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
        paragraph.text = self.parser.md.htmlStash.store(convert(_plain(found[1]), display="block"))
        if rest := block[found.end() :].strip():
            blocks.insert(0, rest)


class _MathML(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(_Inline(DISPLAYED, md, "block"), "math-displayed", 186)
        md.inlinePatterns.register(_Inline(INLINE, md, "inline"), "math-inline", 185)
        md.parser.blockprocessors.register(_Block(md.parser), "math-block", 95)


def _plain(equation: str) -> str:
    """Remove what LaTeX ignores and the converter does not know."""
    return re.sub(r"\\(?:bigr|bigl|Bigr|Bigl|big|Big)(?![a-zA-Z])", "", equation.strip())


def makeExtension(**_: Any) -> _MathML:
    return _MathML()
