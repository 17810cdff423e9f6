"""Metadata for a package index: project URLs, and a README whose links work outside of git."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r'(!\[[^]]*\]\(|\]\(|(?:src|srcset|href)=")([^)"#\s]+)')


class Repository(MetadataHookInterface):
    """Derive URLs and links from the address `repository` in pyproject.toml.

    Links to files of the repository are those of the version's tag. Without an address there are no
    URLs, and the README is as it stands.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        root, home = Path(self.root), self.config["repository"]
        text = (root / "README.md").read_text(encoding="utf-8")
        if home:
            code = (root / "src/elbos/__init__.py").read_text(encoding="utf-8")
            (version,) = re.findall(r'^__version__ = "(.+)"$', code, re.MULTILINE)

            def absolute(link: re.Match[str]) -> str:
                start, path = link.groups()
                if not (root / path).exists():  # an address, or no link at all
                    return link[0]
                kind = "raw" if start.startswith(("!", "src")) else "blob"
                return f"{start}{home}/{kind}/v{version}/{path}"

            text = LINK.sub(absolute, text)
            metadata["urls"] = {
                "Repository": home,
                "Issues": f"{home}/issues",
                "Changelog": f"{home}/blob/v{version}/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
