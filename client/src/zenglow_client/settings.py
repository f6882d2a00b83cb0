"""Whom to ask and as whom: from arguments, else the environment, else the file that ``zenglow login`` writes."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from zenglow_client.errors import ConfigurationError

URL_VARIABLE = "ZENGLOW_URL"
KEY_VARIABLE = "ZENGLOW_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Settings:
    url: str = DEFAULT_URL
    api_key: str | None = None

    def __repr__(self) -> str:
        """Without the key, which may otherwise stand in a traceback."""
        return f"Settings(url={self.url!r}, api_key={'…' if self.api_key else None})"


def settings_file() -> Path:
    """``$XDG_CONFIG_HOME/zenglow/client.toml``."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "zenglow" / "client.toml"


def load(url: str | None = None, api_key: str | None = None) -> Settings:
    """The settings in force. Raises `ConfigurationError`.

    A key from the file goes to the file's address alone: whoever names another server must bring its key.
    """
    kept = _read(settings_file())
    chosen = checked_url(url or os.environ.get(URL_VARIABLE) or kept.url)
    key = api_key or os.environ.get(KEY_VARIABLE) or (kept.api_key if chosen == kept.url else None)
    return Settings(chosen, key)


def save(settings: Settings) -> Path:
    """Keep settings where only their owner can read them."""
    path = settings_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A JSON string is a string of TOML too.
    lines = [f"url = {json.dumps(settings.url)}"]
    if settings.api_key:
        lines.append(f"api_key = {json.dumps(settings.api_key)}")
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    draft.replace(path)
    return path


def forget() -> bool:
    """Remove the file; whether there was one."""
    path = settings_file()
    is_there = path.exists()
    path.unlink(missing_ok=True)
    return is_there


def checked_url(url: str) -> str:
    """An address without a slash at its end. Raises `ConfigurationError`."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigurationError(f"{url!r} is no address: write it as https://zenglow.example.")
    return url.rstrip("/")


def _read(path: Path) -> Settings:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigurationError(f"Others can read {path}, which holds a key: chmod 600 {path}")
            kept = tomllib.load(file)
    except FileNotFoundError:
        return Settings()
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} can't be read ({error}). `zenglow login` writes it anew.") from None
    found = Settings()
    if isinstance(kept.get("url"), str):
        found = replace(found, url=checked_url(kept["url"]))
    if isinstance(kept.get("api_key"), str):
        found = replace(found, api_key=kept["api_key"])
    return found
