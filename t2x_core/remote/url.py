"""URLs as settings and in messages, where they are shown without what is secret about them."""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import TypeGuard
from urllib.parse import parse_qsl

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SIGNED = re.compile(
    r"x-(amz|goog|oss|cos)-.*|(aws|google|oss)access(key)?id|(q-)?sign(ature|ed)?|(q-)?sign-.*|sig|s[eprv]|st|spr|"
    r"sk(oid|tid|e|s|t|v)|expires?|policy|key-pair-id|.*token",
    re.IGNORECASE,
)
"""Parameters of a query that only say who may read: those of S3, GCS, Azure, CloudFront, and tokens."""
HASHED = "…"
"""In front of the hash that stands for a query."""


class Url:
    """A URL in a recipe. As text it has no user, password or signature; `full` has all."""

    def __init__(self, full: str) -> None:
        self.full = full

    def __str__(self) -> str:
        return public_url(self.full)

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(url_name(self.full).rstrip("/"))

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> Url:
        """The folder that it is in, to be read with the same query."""
        base, query = split_query(self.full)
        return Url(base.rpartition("/")[0] + query)

    def join(self, path: str) -> str:
        """The URL of what a path below this folder names, or the path, if it is a URL."""
        if is_url(path):
            return path
        base, query = split_query(self.full)
        scheme, _, rest = base.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}{query}"


def is_url(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _SCHEME.match(text) is not None


def split_query(url: str) -> tuple[str, str]:
    """The URL up to its query, and the query with its "?", or ""; only those of HTTP have one."""
    base, mark, query = url.partition("?") if url[:4].lower() == "http" else (url, "", "")
    return base, mark + query


def url_name(url: str) -> str:
    """Without its query."""
    return split_query(url)[0]


def public_url(url: str) -> str:
    """The URL without user and password, and with a hash for what its query says besides a signature: the same file
    has the same name when it is signed anew."""
    base, query = split_query(url)
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    shown = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    if not query or query.startswith(f"?{HASHED}"):
        return shown + query
    told = [pair for pair in parse_qsl(query[1:], keep_blank_values=True) if not _SIGNED.fullmatch(pair[0])]
    return f"{shown}?{HASHED}{hashlib.blake2b(repr(told).encode(), digest_size=4).hexdigest()}" if told else shown


def without_secrets(text: str) -> str:
    """A message in which each URL is as `public_url` has it."""
    return re.sub(rf"{_SCHEME.pattern}[^\s'\"<>)]+", lambda found: public_url(found[0]), text)
