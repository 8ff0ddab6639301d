"""Text of captions: cleaning for T5, the phrases captioners begin with, what is said of the camera.

The cleaning gives what Open-Sora 1.1 (and DeepFloyd IF and PixArt before it) trains T5 with: lower case, without
addresses, file names, numbers of articles, signs and Chinese characters.
"""

import html
import re
import urllib.parse

import ftfy
from bs4 import BeautifulSoup

from vidtron.curation.motion import SENTENCES

_ADDRESS = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"
_FILE_KINDS = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_Rules = tuple[tuple[str, str], ...]

_ADDRESSES: _Rules = (
    ("<person>", "person"),
    (rf"\b((?:https?:(?:\/{{1,3}}|[a-zA-Z0-9%])|{_ADDRESS}))", ""),
    (rf"\b((?:www:(?:\/{{1,3}}|[a-zA-Z0-9%])|{_ADDRESS}))", ""),
)
_SIGNS: _Rules = (
    (r"@[\w\d]+\b", ""),  # nicknames
    # Chinese, Japanese and Korean signs: strokes, extensions, enclosed and compatible letters, ideographs.
    (r"[\u31c0-\u31ff\u3200-\u4dff\u4e00-\u9fff]+", ""),
    (r"[\-\u1806\u2010-\u2015\u2043\u207b\u208b\u2212\u2e3a\u2e3b\ufe58\ufe63\uff0d]+", "-"),
    (r"[`´«»“”¨]", '"'),
    (r"[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # internet addresses
    (r"\d:\d\d\s+$", ""),  # numbers of articles
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"[\S]+\.(?:{_FILE_KINDS})", ""),
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\/\*]+", " "),
    (r"\s+\.\s+", " "),
)
_NOISE: _Rules = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILE_KINDS})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes, also with the Cyrillic letter
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
)
_ENDS: _Rules = (
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
)
_JOINED_BY = re.compile(r"[-_]")
_MANY_JOINS = 3  # this-is-my-cute-cat: more of them than this are spaces

_SUBJECT = r"(?:the|this) (?:video|image|clip|footage|scene|picture|photo)(?: clip)?"
_VERBS = "shows|is|portrays|captures|depicts|displays|features|presents|showcases|illustrates|contains|begins with"
_PREFIX = re.compile(rf"^(?:in {_SUBJECT},?\s+(?:we (?:can )?see\s+)?|{_SUBJECT} (?:{_VERBS})\s+)", re.IGNORECASE)


def clean_for_t5(caption: str) -> str:
    """The cleaned caption; cleaned twice, as upstream does."""
    return _cleaned(_cleaned(caption))


def without_prefix(caption: str) -> str:
    """Without "The video shows" and the like at the beginning; the next word then starts with a capital."""
    rest = _PREFIX.sub("", caption, count=1)
    return rest[:1].upper() + rest[1:] if rest != caption else caption


def with_motion(caption: str, motion: str | None) -> str:
    """A caption with a sentence that says how the camera moves, where that is known."""
    sentence = SENTENCES.get(motion or "", "")
    return f"{caption} {sentence}" if sentence else caption


def _cleaned(caption: str) -> str:
    text = urllib.parse.unquote_plus(caption).strip().lower()
    text = _changed(text, _ADDRESSES)
    text = BeautifulSoup(text, features="html.parser").text
    text = _changed(text, _SIGNS)
    if len(_JOINED_BY.findall(text)) > _MANY_JOINS:
        text = _JOINED_BY.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = _changed(text, _NOISE).strip()
    return _changed(text, _ENDS).strip()


def _changed(text: str, rules: _Rules) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text
