"""URLs, and what of them may be shown: never the credentials or the options that they hold.

People paste URLs as they have them, with keys whose slashes nobody escaped, and clients quote them
back in whatever form they sent them. So what is shown is what stands after the last @ and before
the first ? or #, and where that is no answer, nothing but the scheme.
"""

from __future__ import annotations

import json
import os
import re
import string
import traceback
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "..."
"""What stands in place of what is not shown."""

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_URL = re.compile(rf"(?:{_SCHEME}::)*{_SCHEME}://")
_LINK = re.compile(rf"::(?={_SCHEME}(?::|$))")
"""Between the URLs of a chain, as in zip://a.parquet::https://host/b.zip."""
_PART = re.compile(rf"(?P<scheme>{_SCHEME}):/+(?P<rest>.*)", re.DOTALL)
_SCHEME_CHARACTERS = string.ascii_letters + string.digits + "+.-"
_CLOSING = "]'\"),.;:>}"
"""What may follow a URL in a sentence and is none of it."""
_WITH_REVISION = "hf"
"""The scheme whose paths have an @, before a revision."""
_PLAIN_OPTIONS = {
    "allow_bucket_creation",
    "allow_bucket_deletion",
    "check_directory_existence_before_creation",
    "default_bucket_location",
    "enable_tls",
    "endpoint_override",
    "region",
    "retry_limit_seconds",
    "scheme",
}
"""Options of a URL whose values are no secrets and may be words of any message."""
_SECRET_NAME = re.compile("AUTH|KEY|PASS|SECRET|TOKEN|CREDENTIAL|SAS|SIGNATURE", re.IGNORECASE)
_FEW = 4
"""A secret with fewer characters is hidden only where it stands by itself."""
_LEAST_NAMED = 8
"""Characters of what a name alone makes a secret."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a text names a place by a scheme, as s3://bucket/store does, or by a chain."""
    return isinstance(path, str) and _URL.match(path) is not None


def names_path(name: str) -> bool:
    """Return whether a name can only be meant as a path, and not as an id on a hub, org/name."""
    has_sign = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1
    # Path.exists raises for names that are too long.
    return has_sign or os.path.exists(name)  # noqa: PTH110


def schemes(url: str) -> list[str]:
    """Return the schemes of a URL, or of all in a chain."""
    return [part.partition(":")[0].lower() for part in _LINK.split(url)]


def names_a_place(url: str) -> bool:
    """Return whether more than slashes follows the scheme of a URL, or the last one of a chain."""
    found = _PART.fullmatch(_LINK.split(url)[-1])
    return found is not None and found["rest"] != ""


def redacted(url: str) -> str:
    """Return a URL, or a chain of them, without the credentials and options it may hold.

    Any other text is returned as it is.
    """
    return "::".join(_divided(part)[0] for part in _LINK.split(url))


def without_credentials(text: str) -> str:
    """Return a text with every URL in it redacted; in time that grows as its length."""
    if ":/" not in text:
        return text
    return "".join(map(_redacted_word, re.split(r"(\s+)", text)))


def _redacted_word(word: str) -> str:
    # One slash is enough: pathlib leaves a URL no more.
    place = word.find(":/")
    if place < 0:
        return word
    start = len(word[:place].rstrip(_SCHEME_CHARACTERS))
    end = len(word.rstrip(_CLOSING))
    return word[:start] + redacted(word[start:end]) + word[max(start, end) :]


def _divided(part: str) -> tuple[str, list[str]]:
    """Return what of one URL may be shown, and what may be secret."""
    found = _PART.fullmatch(part)
    if found is None:
        return part, []
    start, rest = part[: found.start("rest")], found["rest"]
    mark = re.search("[?#]", rest)
    address, options = (rest, "") if mark is None else (rest[: mark.start()], rest[mark.end() :])
    if "@" in options:
        # A key with a ? or # in it, or an option with an @: either half may be secret.
        return start + HIDDEN, [rest]
    has_revision = found["scheme"].lower() == _WITH_REVISION and ":" not in address
    # What is before the last @ may be a key with an unescaped slash.
    user = (address.partition("/")[0] if has_revision else address).rpartition("@")[0]
    if user == HIDDEN or not (user or options):
        return start + address, [options] if options else []
    shown = address[len(user) :].removeprefix("@")
    hidden = f"{HIDDEN}@" if "/" in user else ""
    return f"{start}{hidden}{shown}", [one for one in (user, options) if one]


class Secrets:
    """What of a URL, of other options and of the environment must be in no message.

    Args:
        url: that is read, or any other text.
        options: of a client, by name, keys and tokens among them.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._replaced = [(url, redacted(url))] if redacted(url) != url else []
        texts = {one for part in _LINK.split(url) for one in _divided(part)[1]}
        secrets = {one for text in texts for one in (text, *_pieces(text))}
        named = (*_named(os.environ), *_named(options or {}))
        # The path of a file with a key tells nothing, and messages need it.
        secrets |= {one for one in named if len(one) >= _LEAST_NAMED and not one.startswith("/")}
        forms = {form for one in secrets for form in _forms(one)}
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(_whole, ordered))) if ordered else None

    def hide(self, text: str) -> str:
        """Return what a client says without the secrets, in whatever form it quotes them."""
        for url, shown in self._replaced:
            text = text.replace(url, shown)
        text = without_credentials(text)
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def said(self, error: BaseException) -> str:
        """Return what an error of a client says, with its type where it has no words of its own."""
        text, kind = self.hide(str(error)), type(error).__name__
        if text and isinstance(error, OSError | ImportError | ValueError):
            return text
        return f"{kind}: {text}" if text else kind

    def cause(self, error: BaseException) -> BaseException | None:
        """Return an error, to raise another one from, or None if its traceback tells a secret."""
        told = "".join(traceback.format_exception(error))
        return error if self.hide(told) == told else None


def _pieces(text: str) -> Iterator[str]:
    """Yield the values of options, and what a client may take a key apart into."""
    for option in re.split("[&;]", text):
        name, equals, value = option.partition("=")
        if equals and name in _PLAIN_OPTIONS:
            continue
        yield value if equals else name
        yield from re.split("[:/?#@]", value if equals else name)


def _forms(secret: str) -> Iterator[str]:
    """Yield how clients write a text: escaped for a URL or not, and as Python or JSON quote it."""
    for plain in {secret, unquote(secret), re.sub("[\t\r\n]", "", secret)} - {""}:
        yield from (plain, quote(plain), quote(plain, safe=""), quote_plus(plain))
        yield from (repr(plain)[1:-1], json.dumps(plain)[1:-1])


def _whole(form: str) -> str:
    pattern = re.escape(form)
    return pattern if len(form) >= _FEW else rf"(?<!\w){pattern}(?!\w)"


def _named(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts whose names say that they are secret, at any depth."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _named(value)
        elif _SECRET_NAME.search(str(name)):
            values = value if isinstance(value, list | tuple) else (value,)
            yield from (one for one in values if isinstance(one, str))
