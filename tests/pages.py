"""What a reader, and a browser, see of a page: shared by tests of several packages."""

import json
import re
from html.parser import HTMLParser

PAYLOADS = (
    "</script><script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "\"><svg onload=document.title='ran'>",
    "'}}{{ 7*7 }}<!--",
)


def own_part(path):
    """The page without the plotly library."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"<script nonce=\"[0-9a-f]+\">/\*\*.*?</script>", "", text, count=1, flags=re.S)


def visible(path):
    """The words a reader sees."""
    text = re.sub(r"<(style|script)\b.*?</\1>", " ", own_part(path), flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def figure_of(path, name):
    return json.loads(re.search(rf'id="plot-{name}-data">(.*?)</script>', own_part(path), re.S).group(1))


class Tags(HTMLParser):
    """Collect the tags of a page with their attributes, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
