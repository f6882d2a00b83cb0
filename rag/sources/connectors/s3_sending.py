"""boto3's requests through the guarded client: to the very address that was judged, on every one of them.

boto3 resolves names by itself, so that a name which was judged when the source was made may lead elsewhere by the time
it is called (DNS rebinding), and a bucket's region may redirect to another host. botocore asks the handlers of
``before-send`` for an answer before it opens a connection of its own; this one always has one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from django.conf import settings

CONNECT_TIMEOUT_S = 5
LONGEST_LISTING_BYTES = 16 * 1024 * 1024
"""A page of a listing holds at most a thousand keys of a kilobyte each."""

Send = Callable[..., Any]


class _Body(io.BytesIO):
    """What botocore expects of a urllib3 response's body."""

    def stream(self, amount: int = 65_536) -> Iterator[bytes]:
        while block := self.read(amount):
            yield block


def sender(http: httpx.Client) -> Send:
    """A handler of botocore's ``before-send`` over a client of `ops.outgoing`.

    It raises what botocore would, which then tries again as configured, and `OutgoingRefusedError`.
    """
    from botocore.awsrequest import AWSResponse
    from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

    longest = max(settings.RAG_DOCUMENT_MAX_BYTES + 1, LONGEST_LISTING_BYTES)
    timeout = httpx.Timeout(settings.RAG_SOURCE_FETCH_TIMEOUT_S, connect=CONNECT_TIMEOUT_S).as_dict()

    def send(request: Any, **_: Any) -> Any:
        # httpx.Request adds no header of its own but Host and Content-Length; any other would not be signed.
        headers = {
            name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()
        }
        asked = httpx.Request(
            request.method, request.url, headers=headers, content=request.body, extensions={"timeout": timeout}
        )
        body = _Body()
        try:
            answer = http.send(asked, stream=True)
            try:
                for block in answer.iter_raw():
                    body.write(block)
                    if body.tell() >= longest:
                        break
            finally:
                answer.close()
        except httpx.ReadTimeout as error:
            raise ReadTimeoutError(endpoint_url=request.url) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise EndpointConnectionError(endpoint_url=request.url) from error
        except httpx.HTTPError as error:
            raise ConnectionClosedError(endpoint_url=request.url) from error
        body.seek(0)
        return AWSResponse(request.url, answer.status_code, dict(answer.headers), body)

    return send
