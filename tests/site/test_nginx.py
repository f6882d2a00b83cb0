"""docker/nginx/mtls.conf.template in a real nginx, in front of our middleware; without an nginx it is skipped."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest
from pytest_django.fixtures import Settings
from pytest_django.live_server_helper import LiveServer

from tests.serving import PATIENCE_S, POLL_S, free_port
from tests.site.authorities import Certificates, make_certificates
from zenglow_site.environment import BASE_DIR

TEMPLATE = BASE_DIR / "docker" / "nginx" / "mtls.conf.template"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
FRAME = """
daemon off; pid $folder/nginx.pid; error_log $folder/error.log;
events {}
http {
  access_log off;
  client_body_temp_path $folder; proxy_temp_path $folder; fastcgi_temp_path $folder;
  uwsgi_temp_path $folder; scgi_temp_path $folder;
  include $folder/mtls.conf;
}
"""


class _Filled(Template):
    """As envsubst fills in: ``${NAME}`` only, so that nginx keeps its own variables."""

    pattern = r"(?P<escaped>\x00)|(?P<named>\x00)|\$\{(?P<braced>[A-Z]+)\}|(?P<invalid>\x00)"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
def nginx(tmp_path: Path, certificates: Certificates, live_server: LiveServer) -> Iterator[int]:
    """A running nginx before the live server; its port."""
    if NGINX is None:
        pytest.skip("There is no nginx on the PATH.")
    port = free_port()
    values = {
        "LISTEN": f"127.0.0.1:{port}",
        "SERVER_NAME": "localhost",
        "UPSTREAM": live_server.url.removeprefix("http://"),
        "TLS": str(tmp_path),
    }
    (tmp_path / "mtls.conf").write_text(_Filled(TEMPLATE.read_text("utf-8")).substitute(values))
    (tmp_path / "nginx.conf").write_text(FRAME.replace("$folder", str(tmp_path)))
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    command = [NGINX, "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-c", str(tmp_path / "nginx.conf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            try:
                connection.connect()
            except OSError:
                assert process.poll() is None, (tmp_path / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(POLL_S)
            else:
                connection.close()
                break
        yield port
    finally:
        process.terminate()
        process.communicate()


def ask(port: int, certificates: Certificates, client: str | None, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port, context=certificates.context(client), timeout=PATIENCE_S
    )
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_only_a_certificate_that_nginx_has_verified_gets_through(
    nginx: int, certificates: Certificates, settings: Settings
) -> None:
    settings.OPS_REQUIRE_CLIENT_CERTIFICATE = True
    settings.ENABLE_API_KEYS = True
    status, text = ask(nginx, certificates, "known", "/rag/collections")
    assert (status, json.loads(text)["status"]) == (401, 401)  # through to the question for a key
    for client in (None, "unknown"):
        status, text = ask(nginx, certificates, client, "/rag/collections", X_Client_Verify="SUCCESS")
        assert status in {400, 403}, text
        assert "certificate" in text
    assert ask(nginx, certificates, None, "/health/live")[0] == 200


def test_it_sets_every_header_that_we_believe() -> None:
    """One that it forgot would come through as the client wrote it."""
    from ops.proxies import FORWARDED_BY_PROXIES

    text = TEMPLATE.read_text("utf-8")
    for header in (*FORWARDED_BY_PROXIES, "HTTP_X_FORWARDED_FOR"):
        name = header.removeprefix("HTTP_").replace("_", "-").title()
        assert f"proxy_set_header {name} " in text
