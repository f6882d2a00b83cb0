"""A server of models for tests: real HTTP, speaking Ollama's NDJSON and OpenAI's SSE, that misbehaves on request.

No real Ollama runs in continuous integration. What this one sends is checked by the official ``ollama`` and ``openai``
clients in `tests.rag.answers.test_backends`: that proves its shape, not a real server's behaviour.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.patience import PATIENCE_S


class ModelServer:
    """``words`` is what it says, after the ``replies`` in their order; ``fault`` what it does wrong: see `Handler`.

    ``asked`` are the bodies it was sent.
    """

    def __init__(self) -> None:
        self.words = ["Oxalic ", "acid ", "kills ", "mites ", "[1", "] ", "and ", "wasps ", "[9]."]
        self.replies: list[list[str]] = []
        self.fault = ""
        self.faults_left = 10**9
        self.calls: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.went_on = threading.Event()
        self.was_left = threading.Event()
        self.has_begun = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.headers.append(dict(self.headers))
                if self.path == "/api/tags":
                    self._json({"models": [outer.tag("mistral:7b")]})
                elif self.path == "/v1/models":
                    self._json({"object": "list", "data": [outer.entry("tiny")]})
                else:
                    self._json({"error": "not found"}, 404)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.headers.append(dict(self.headers))
                if self.path == "/api/show":
                    self._json({"model_info": {"llama.context_length": 8192}, "details": {}, "capabilities": []})
                elif self.path == "/tokenize":
                    self._json({"tokens": body["content"].split()})
                elif self.path in {"/api/chat", "/v1/chat/completions", "/api/pull"}:
                    outer.asked.append(body)
                    self._answer(body)
                else:
                    self._json({"error": "not found"}, 404)

            def _answer(self, body: dict[str, Any]) -> None:
                words = outer.replies.pop(0) if outer.replies else outer.words
                fault = outer.fault if outer.faults_left > 0 else ""
                outer.faults_left -= 1
                if fault in {"429", "500", "404", "401"}:
                    self._json({"error": f"status {fault}, as asked for"}, int(fault))
                    return
                if fault == "drop":
                    self.connection.shutdown(2)
                    self.close_connection = True
                    return
                is_ollama = self.path.startswith("/api/")
                self.send_response(200)
                self.send_header("Content-Type", "application/x-ndjson" if is_ollama else "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                if fault == "silent":
                    outer.has_begun.set()
                    outer.went_on.wait(PATIENCE_S)
                    self.close_connection = True
                    return
                lines = list(
                    outer.pulled()
                    if self.path == "/api/pull"
                    else outer.ndjson(body, words)
                    if is_ollama
                    else outer.sse(body, words)
                )
                try:
                    for number, line in enumerate(lines):
                        if number == 2 and fault == "cut":
                            self.connection.shutdown(2)
                            self.close_connection = True
                            return
                        if number == 2 and fault == "garbage":
                            self._chunk(b"\xff\xfe{not json\n" if is_ollama else b"data: {not json\n\n")
                        if number == 2 and fault == "error":
                            said = {"error": "out of memory"}
                            self._chunk(
                                (json.dumps(said) if is_ollama else f"data: {json.dumps(said)}").encode() + b"\n"
                            )
                        if number == 2 and fault == "pause":
                            outer.has_begun.set()
                            outer.went_on.wait(PATIENCE_S)
                        if number == 2 and fault == "endless":
                            outer.has_begun.set()
                            while True:  # until nobody listens
                                self._chunk(lines[1])
                        if number == 2 and fault == "drip":
                            outer.has_begun.set()
                            while not outer.went_on.wait(0.05):
                                self._chunk(lines[1])
                        self._chunk(line)
                    self._chunk(b"")
                except OSError:
                    outer.was_left.set()
                    self.close_connection = True

            def _chunk(self, data: bytes) -> None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()

            def _json(self, answer: Any, status: int = 200) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def reset(self) -> None:
        """Nothing was asked yet, and nothing is wrong."""
        self.went_on.set()
        self.fault = ""
        self.faults_left = 10**9
        self.calls, self.asked, self.headers, self.replies = [], [], [], []
        self.went_on, self.was_left, self.has_begun = threading.Event(), threading.Event(), threading.Event()

    def close(self) -> None:
        self.went_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def ndjson(self, body: dict[str, Any], words: list[str]) -> Iterator[bytes]:
        """https://github.com/ollama/ollama/blob/main/docs/api.md#generate-a-chat-completion"""
        frame = {"model": body["model"], "created_at": "2026-01-01T00:00:00.000000Z"}
        for word in words:
            yield _line(frame | {"message": {"role": "assistant", "content": word}, "done": False})
        if body.get("tools"):
            called = {"function": {"name": "look", "arguments": {"where": "hive"}}}
            message = {"role": "assistant", "content": "", "tool_calls": [called]}
            yield _line(frame | {"message": message, "done": False})
        told = {"done": True, "done_reason": "stop", "prompt_eval_count": 200, "eval_count": len(words)}
        times = {"total_duration": 5, "load_duration": 1, "prompt_eval_duration": 2, "eval_duration": 2}
        yield _line(frame | {"message": {"role": "assistant", "content": ""}} | told | times)

    def sse(self, body: dict[str, Any], words: list[str]) -> Iterator[bytes]:
        """https://platform.openai.com/docs/api-reference/chat-streaming"""
        frame = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

        def event(choices: list[Any], **more: Any) -> bytes:
            return f"data: {json.dumps(frame | {'choices': choices} | more)}\n\n".encode()

        def choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
            return {"index": 0, "delta": delta, "finish_reason": reason}

        yield event([choice({"role": "assistant", "content": ""})])
        for word in words:
            yield event([choice({"content": word})])
        if body.get("tools"):
            function = {"name": "look", "arguments": '{"where": "hive"}'}
            yield event([choice({"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": function}]})])
        yield event([choice({}, "tool_calls" if body.get("tools") else "stop")])
        usage = {"prompt_tokens": 200, "completion_tokens": len(words), "total_tokens": 200 + len(words)}
        yield event([], usage=usage)
        yield b"data: [DONE]\n\n"

    def pulled(self) -> Iterator[bytes]:
        yield _line({"status": "pulling manifest"})
        yield _line({"status": "pulling aaaa", "digest": "sha256:aaaa", "total": 100, "completed": 40})
        yield _line({"status": "pulling aaaa", "digest": "sha256:aaaa", "total": 100, "completed": 100})
        yield _line({"status": "success"})

    @staticmethod
    def tag(name: str) -> dict[str, Any]:
        details = {"format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "7B"}
        return {
            "name": name,
            "model": name,
            "modified_at": "2026-01-01T00:00:00Z",
            "size": 4_100_000_000,
            "digest": "a" * 64,
            "details": details | {"parent_model": "", "quantization_level": "Q4_0"},
        }

    @staticmethod
    def entry(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 1, "owned_by": "tests", "max_model_len": 8192}


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"
