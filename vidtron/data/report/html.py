"""One HTML file that needs nothing else: no network, no other file."""

import base64
import hashlib
import html
import json
from typing import Any


def document(title: str, body: str, *, style: str = "", script: str = "", data: Any = None) -> str:
    """A page in which nothing but its own script runs, and nothing is fetched, whatever the data say.

    Args:
        title: plain text.
        body: HTML. Text of others goes through `data`, or is escaped.
        style: CSS.
        script: JavaScript, run after the body is there.
        data: what the script finds as JSON in the element `data`; never markup.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    scripts = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        policy += f"; script-src 'sha256-{digest}'"
        scripts = f'<script type="application/json" id="data">{embedded(data)}</script>\n<script>{script}</script>\n'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{body}{scripts}</body>
</html>
"""


def embedded(value: Any) -> str:
    """JSON that can stand inside of a script element: no sign in it that HTML would look at."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
