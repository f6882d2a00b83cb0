"""Web pages: one, those that a site's pages lead to, or those that its sitemap names.

Well-behaved: it reads ``robots.txt`` first and keeps to it (RFC 9309), says who it is, asks one thing at a time and
waits between two, comes back with the validators of the last time (RFC 9110, section 13), obeys ``noindex`` and
``nofollow``, and stops where the server says that it is too much. Well-guarded: every address, redirects included, goes
through `ops.outgoing`, stays on the site that it was given, and what comes back is bounded in time and size.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx
from django.conf import settings
from lxml import etree, html
from protego import Protego

from ops import outgoing
from ops.contracts.problems import InvalidRequest
from rag.ingest import formats
from rag.ingest.types import IngestError
from rag.sources import options as checks
from rag.sources.types import Event, Found, Incomplete, Known, LeftOut, Place, Same, SourceError, Unreadable

AGENT = "ZenGlow"
USER_AGENT = f"{AGENT}/0.1 (document indexing; obeys robots.txt)"
MAX_REDIRECTS = 5
ROBOTS_BYTES = 500 * 1024
"""What RFC 9309, section 2.5, asks crawlers to read at least; the rest is ignored."""
SITEMAP_BYTES = 50 * 1024 * 1024
"""The largest sitemap that the protocol allows, uncompressed."""
MAX_SITEMAPS = 200
MAX_LINKS = 2000
MAX_URL_CHARACTERS = 400
LONGEST_DELAY_S = 60.0

pause: Callable[[float], None] = time.sleep
"""What passes the time between two requests."""

PAGE, SITE, SITEMAP = "page", "site", "sitemap"


@dataclass(frozen=True, slots=True)
class Page:
    """What came back: ``url`` is where it was found in the end."""

    status: int
    headers: httpx.Headers
    body: bytes
    url: str


class PageError(Exception):
    """One address can't be read."""


class TooMuchError(Exception):
    """The server asks to be left alone."""


class WebConnector:
    kind = "web"
    option_help: Mapping[str, str] = {
        "mode": "page: this one; site (the default): those it leads to, below its folder; sitemap: those it names.",
        "max_pages": "At most so many.",
        "max_depth": "Links away from the first page, for a site.",
        "delay_s": "Seconds between two requests; robots.txt may ask for more.",
        **checks.SELECTION_HELP,
    }

    def checked_location(self, location: str) -> str:
        try:
            parts = urlsplit(location)
            is_address = parts.scheme in outgoing.SCHEMES and bool(parts.hostname) and parts.username is None
            _ = parts.port
        except ValueError:
            is_address = False
        if not is_address or not location.isprintable() or len(location) > MAX_URL_CHARACTERS:
            fault = "An address that begins with https:// or http://, without a user name."
            raise InvalidRequest(f"location: {fault}", errors={"location": fault})
        return normalized(location) or location

    def checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return checks.checked(
            options,
            {
                "mode": checks.choice(PAGE, SITE, SITEMAP),
                "max_pages": checks.whole(1, 50_000),
                "max_depth": checks.whole(0, 20),
                "delay_s": checks.number(0, LONGEST_DELAY_S),
                **checks.SELECTION,
            },
        )

    def events(self, place: Place, known: Mapping[str, Known]) -> Iterator[Event]:
        with _Crawl(place, known) as crawl:
            yield from crawl.events()


class _Crawl:
    """One look at a site."""

    def __init__(self, place: Place, known: Mapping[str, Known]) -> None:
        self._place, self._known = place, known
        options = place.options
        self._mode = options.get("mode", SITE)
        self._max_pages = min(options.get("max_pages", 1000), settings.RAG_SOURCE_MAX_ITEMS)
        self._max_depth = options.get("max_depth", 5)
        self._delay_s = options.get("delay_s", settings.RAG_SOURCE_WEB_DELAY_S)
        self._selection = checks.Selection(options)
        self._origin = _origin(place.location)
        self._within = urlsplit(place.location).path.rpartition("/")[0] + "/"
        self._robots = Protego.parse("")
        self._is_first = True
        headers = {"User-Agent": USER_AGENT}
        if place.secret:
            headers["Authorization"] = place.secret
        self._http = outgoing.client(timeout_s=settings.RAG_SOURCE_FETCH_TIMEOUT_S, headers=headers)

    def __enter__(self) -> _Crawl:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def events(self) -> Iterator[Event]:
        """Each address once, as it is come to."""
        self._read_robots()
        try:
            starts = self._from_sitemap() if self._mode == SITEMAP else [self._place.location]
        except PageError as error:
            raise SourceError(f"The sitemap {self._place.location} {error}.") from None
        queue = deque((url, 0) for url in starts)
        seen = {url for url, _ in queue}
        pages = 0
        while queue:
            url, depth = queue.popleft()
            if pages >= self._max_pages:
                yield Incomplete(f"Only the first {self._max_pages} pages were read (max_pages).")
                return
            if not self._robots.can_fetch(url, AGENT):
                if url == self._place.location:
                    raise SourceError(f"The site's robots.txt asks not to read {url}.")
                yield LeftOut("is excluded by robots.txt")
                continue
            pages += 1
            event: Event | None
            links: Sequence[str]
            try:
                event, links = self._visit(url)
            except TooMuchError as error:
                yield Unreadable(path_of(url), str(error))
                yield Incomplete(f"{self._origin} {error}; the next time goes on.")
                return
            except PageError as error:
                if url == self._place.location:
                    raise SourceError(f"{url} {error}.") from None
                # What it led to the last time is still there, for all that is known.
                event = Unreadable(path_of(url), str(error))
                seen_before = self._known.get(path_of(url))
                links = seen_before.links if seen_before is not None else ()
            if event is not None:
                yield event
            if self._mode != SITE or depth >= self._max_depth:
                continue
            for link in links:
                if link not in seen and self._is_ours(link):
                    seen.add(link)
                    queue.append((link, depth + 1))

    # --- one page ----

    def _visit(self, url: str) -> tuple[Event | None, Sequence[str]]:
        """What is at an address, and where it leads; no event for what is gone."""
        path = path_of(url)
        known = self._known.get(path)
        validators = _validators(known)
        page = self._get(url, validators, settings.RAG_DOCUMENT_MAX_BYTES)
        if page.status == 304 and known is not None:
            return Same(path), known.links
        if page.status in {404, 410}:
            return None, ()
        if page.status != 200:
            raise PageError(f"answers with HTTP {page.status}")
        if page.url != url and not self._is_ours(page.url):
            if url == self._place.location:
                raise PageError(f"leads to {page.url}; give that address instead")
            return LeftOut("leads elsewhere"), ()
        if page.url != url and self._mode == SITE:
            return LeftOut("leads to another page"), (page.url,)
        media_type = page.headers.get("Content-Type", "").split(";")[0].strip().lower()
        is_html = media_type in {"text/html", "application/xhtml+xml"}
        links, directives = _read_html(page) if is_html else ((), _directives(page.headers.get("X-Robots-Tag", "")))
        followed = () if "nofollow" in directives else tuple(filter(self._is_ours, links))
        if "noindex" in directives:
            return LeftOut("asks not to be indexed (noindex)"), followed
        if not _can_be_read(media_type, url):
            return LeftOut(f"{media_type or 'unnamed'} files cannot be read"), ()
        if not self._selection.takes(path):
            return LeftOut("is not selected"), followed
        revision = _revision(page)
        if known is not None and _digest_of(known) == _digest(page.body):
            return Same(path, revision), followed
        return Found(path, page.body, revision, url, media_type, url, followed), followed

    def _get(self, url: str, headers: Mapping[str, str], limit: int) -> Page:
        """An answer within bounds, redirects on the same site followed. Raises `PageError` and `TooMuchError`."""
        asked = url
        for _ in range(MAX_REDIRECTS + 1):
            self._wait()
            page = self._ask(asked, headers, limit)
            location = page.headers.get("Location")
            if page.status not in {301, 302, 303, 307, 308} or not location:
                return page
            following = normalized(urljoin(asked, location))
            if following is None or _origin(following) != self._origin:
                return Page(200, page.headers, b"", following or location)
            if not self._robots.can_fetch(following, AGENT):
                raise PageError("leads to a page that robots.txt excludes")
            asked = following
        raise PageError(f"leads on and on, more than {MAX_REDIRECTS} times")

    def _ask(self, url: str, headers: Mapping[str, str], limit: int) -> Page:
        deadline = time.monotonic() + settings.RAG_SOURCE_FETCH_TIMEOUT_S
        body = bytearray()
        try:
            with self._http.stream("GET", url, headers=headers) as response:
                if response.status_code in {429, 503}:
                    raise TooMuchError("asks to come back later")
                if response.status_code == 200:
                    for piece in response.iter_bytes():
                        body += piece
                        if len(body) > limit:
                            raise PageError(f"is larger than {limit / (1 << 20):g} MB")
                        if time.monotonic() > deadline:
                            raise PageError("takes too long (RAG_SOURCE_FETCH_TIMEOUT_S)")
                return Page(response.status_code, response.headers, bytes(body), url)
        except outgoing.OutgoingRefusedError as error:
            raise PageError(f"is not called: {error}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PageError(f"can't be reached ({type(error).__name__})") from None

    def _wait(self) -> None:
        if not self._is_first and self._delay_s:
            pause(self._delay_s)
        self._is_first = False

    def _is_ours(self, url: str) -> bool:
        parts = urlsplit(url)
        return _origin(url) == self._origin and (self._mode != SITE or (parts.path or "/").startswith(self._within))

    # --- what the site says of itself ----

    def _read_robots(self) -> None:
        """Its rules; none where it has no such file. A server that fails is left alone (RFC 9309, section 2.3.1.4)."""
        try:
            page = self._get(f"{self._origin}/robots.txt", {}, ROBOTS_BYTES * 4)
        except (PageError, TooMuchError) as error:
            raise SourceError(
                f"Without its robots.txt nothing else is asked of a site. {self._origin}/robots.txt {error}"
            ) from None
        if page.status >= 500:
            raise SourceError(f"{self._origin}/robots.txt answers with HTTP {page.status}, so nothing else is asked.")
        if page.status == 200:
            self._robots = Protego.parse(page.body[:ROBOTS_BYTES].decode("utf-8", "replace"))
        wanted = self._robots.crawl_delay(AGENT)
        if wanted:
            self._delay_s = max(self._delay_s, min(float(wanted), LONGEST_DELAY_S))

    def _from_sitemap(self) -> list[str]:
        """The addresses that a sitemap, or the sitemaps in an index, name, and that are of this site."""
        waiting = deque([self._place.location])
        seen = set(waiting)
        found: dict[str, None] = {}
        read = 0
        while waiting and read < MAX_SITEMAPS:
            read += 1
            page = self._get(waiting.popleft(), {}, SITEMAP_BYTES)
            if page.status != 200:
                raise PageError(f"answers with HTTP {page.status}")
            is_index, locations = _sitemap(page.body)
            for location in locations:
                url = normalized(location)
                if url is None or _origin(url) != self._origin:
                    continue
                if not is_index:
                    found.setdefault(url)
                elif url not in seen:
                    seen.add(url)
                    waiting.append(url)
        return list(found)


def normalized(url: str) -> str | None:
    """An address without its fragment, in one spelling; ``None`` for what is no address of a page."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return None
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in outgoing.SCHEMES or not host or len(url) > MAX_URL_CHARACTERS or not url.isprintable():
        return None
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != outgoing.SCHEMES[parts.scheme]:
        shown = f"{shown}:{port}"
    return urlunsplit((parts.scheme, shown, parts.path or "/", parts.query, ""))


def path_of(url: str) -> str:
    """The path of a page in its site, with its query, without the slash in front."""
    parts = urlsplit(url)
    return f"{parts.path.lstrip('/')}{'?' + parts.query if parts.query else ''}"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _can_be_read(media_type: str, url: str) -> bool:
    try:
        formats.format_of(media_type)
    except IngestError:
        return formats.media_type_of_name(urlsplit(url).path) is not None
    return True


def _read_html(page: Page) -> tuple[tuple[str, ...], frozenset[str]]:
    """Where a page leads, and what it says of crawlers; links that it would not vouch for are left out."""
    said = _directives(page.headers.get("X-Robots-Tag", ""))
    try:
        document = html.document_fromstring(page.body)
    except (etree.ParserError, ValueError):
        return (), said
    for meta in document.iter("meta"):
        if str(meta.get("name", "")).lower() in {"robots", AGENT.lower()}:
            said |= _directives(str(meta.get("content", "")))
    base = document.find(".//base[@href]")
    here = urljoin(page.url, str(base.get("href"))) if base is not None else page.url
    found: dict[str, None] = {}
    for anchor in document.iter("a"):
        target = anchor.get("href")
        if not target or "nofollow" in str(anchor.get("rel", "")).lower().split():
            continue
        try:
            url = normalized(urljoin(here, str(target)))
        except ValueError:
            continue
        if url is not None:
            found.setdefault(url)
        if len(found) >= MAX_LINKS:
            break
    return tuple(found), said


def _directives(text: str) -> frozenset[str]:
    words = {word.strip().lower().rpartition(":")[2].strip() for word in text.split(",")}
    return frozenset(words | ({"noindex", "nofollow"} if "none" in words else set()))


def _sitemap(body: bytes) -> tuple[bool, list[str]]:
    """Whether it is an index of sitemaps, and the addresses in it. Raises `PageError`."""
    if body[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
                body = file.read(SITEMAP_BYTES + 1)
        except (OSError, EOFError, zlib.error):
            raise PageError("can't be unpacked") from None
    if len(body) > SITEMAP_BYTES:
        raise PageError(f"is larger than {SITEMAP_BYTES >> 20} MB")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=False)
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError:
        raise PageError("is no XML") from None
    name = etree.QName(root).localname
    if name not in {"urlset", "sitemapindex"}:
        raise PageError("is no sitemap")
    locations = root.iterfind("{*}url/{*}loc" if name == "urlset" else "{*}sitemap/{*}loc")
    return name == "sitemapindex", [location.text for location in locations if location.text]


def _revision(page: Page) -> str:
    """What tells the next time whether it is the same: the server's validators, and a hash of the content."""
    parts = {"sha256": _digest(page.body)}
    for header in ("ETag", "Last-Modified"):
        if header in page.headers:
            parts[header] = page.headers[header][:200]
    return json.dumps(parts)


def _validators(known: Known | None) -> dict[str, str]:
    """The headers that ask for a page only if it has changed."""
    if known is None:
        return {}
    parts = _parts(known)
    names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
    return {names[name]: parts[name] for name in names if name in parts}


def _parts(known: Known) -> dict[str, str]:
    try:
        parts: dict[str, str] = json.loads(known.revision)
    except ValueError:
        return {}
    return parts


def _digest_of(known: Known) -> str:
    return _parts(known).get("sha256", "")


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
