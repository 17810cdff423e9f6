"""The report as a page: writes report.html beside this file, from report.json and samples/.

python docs/results/fashion/make.py
"""

import json
from pathlib import Path

from elbos.comparison.result import Comparison

HERE = Path(__file__).parent


def main() -> None:
    """Write the page, with the samples of the first seed's runs."""
    comparison = Comparison.from_dict(json.loads((HERE / "report.json").read_text()))
    samples = {one.stem: one.read_bytes() for one in (HERE / "samples").glob("*.png")}
    comparison.to_html(HERE / "report.html", samples=samples)
    print(HERE / "report.html")


if __name__ == "__main__":
    main()
