"""Pages in a real browser, which must stay quiet."""

import contextlib
import re
from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = """</script><script>window.hacked = 1</script><img src=x onerror="hacked=1"> & "' <b>"""
DRAWN = "() => [...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))"


@contextlib.contextmanager
def opened(browser, path, *, width, **options):
    """A page, once its curves are there; it must have been quiet when it is closed."""
    context = browser.new_context(viewport={"width": width, "height": 800}, **options)
    page = context.new_page()
    trouble = []
    page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN)
    yield page
    outside = [line for line in trouble if not line.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    context.close()


def words(html):
    """What is to be read on a page, without tags and scripts."""
    body = re.sub(r"<(script|style|title).*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<.*?>", " ", body))
