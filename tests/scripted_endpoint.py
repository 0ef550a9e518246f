"""An OpenAI-compatible endpoint that says what a test tells it: real HTTP on this machine, without a model.

An answer is a function of the prompt alone, so that it is the same in whichever order, process and attempt it is asked.
What goes wrong is a script of the test's.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from transformers.convert_slow_tokenizer import bytes_to_unicode


@dataclass(frozen=True)
class Call:
    """One request for completions: `prompt` is its text, `times` how often that prompt was asked before."""

    path: str
    body: Mapping[str, Any]
    prompt: str
    times: int


@dataclass(frozen=True)
class Reply:
    """What goes over the wire; `hang_s` seconds later."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_s: float = 0.0


def error(status: int, message: str = "scripted", *, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
    """An error in OpenAI's shape."""
    content = {"error": {"message": message, "type": "scripted", "param": None, "code": None, **fields}}
    return Reply(status, json.dumps(content).encode(), headers or {})


def one_of(*answers: str) -> Callable[[str], str]:
    """Answers that depend on nothing but the prompt."""
    return lambda prompt: answers[hashlib.sha256(prompt.encode()).digest()[0] % len(answers)]


class ScriptedEndpoint:
    """An endpoint in a thread of this process; a context manager.

    Attributes:
        calls: every request for completions that came, the faulty ones too.
        batches: every batch that was made, by id.
        uploads: names of the files that came.

    Args:
        answer: from the prompt's text to the completion's.
        fault: may give a reply of its own, in place of the answer.
        tokenizer: for token ids, logprobs and the count of tokens; None: words are counted, and there are no logprobs.
        key: what must come as a bearer token; empty: none may.
        polls: how often a batch is looked at before it has ended.
        batch_status: what it then is.
        answered: how many of a batch's requests are answered by then.
        created: called when a batch is made, before the reply goes out.
    """

    def __init__(
        self,
        answer: Callable[[str], str],
        *,
        fault: Callable[[Call], Reply | None] = lambda _: None,
        tokenizer: Any = None,
        key: str = "",
        model: str = "teacher",
        delay_s: float = 0.0,
        polls: int = 1,
        batch_status: str = "completed",
        answered: int | None = None,
        created: Callable[[], None] = lambda: None,
    ) -> None:
        self.answer, self.fault, self.tokenizer, self.key, self.model = answer, fault, tokenizer, key, model
        self.delay_s, self.polls, self.batch_status, self.answered, self.created = (
            delay_s, polls, batch_status, answered, created,
        )  # fmt: skip
        self.calls: list[Call] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.uploads: list[str] = []
        self.most_at_once = 0
        self._files: dict[str, tuple[str, bytes]] = {}
        self._asked: Counter[str] = Counter()
        self._now = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _serve(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length") or 0))
                asked = urlsplit(self.path)
                query = dict(parse_qsl(asked.query))
                reply = endpoint.reply(self.command, asked.path, self.headers, content, query)
                if reply.hang_s:
                    endpoint._closing.wait(reply.hang_s)
                headers = {"content-type": "application/json", "content-length": len(reply.body), **reply.headers}
                self.close_connection = headers.get("connection") == "close"
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                # In one piece: two would wait for each other's acknowledgement.
                self.wfile.write(f"HTTP/1.1 {reply.status} Scripted\r\n{head}\r\n".encode() + reply.body)

            do_GET = do_POST = _serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients are killed, and hang up
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def prompts(self) -> list[str]:
        """All prompts, in the order in which they came."""
        return [call.prompt for call in self.calls]

    def reply(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes, query: Mapping[str, str]
    ) -> Reply:
        """What one request gets."""
        if headers.get("authorization", "") != (f"Bearer {self.key}" if self.key else ""):
            # OpenAI repeats the key, and so does this one, to see that nobody passes it on.
            return error(401, f"Incorrect API key provided: {headers.get('authorization')}", code="invalid_api_key")
        path = path.removeprefix("/v1")
        if path in ("/chat/completions", "/completions"):
            return self._completions(path, json.loads(content))
        if path == "/files" and method == "POST":
            return self._uploaded(headers["content-type"], content)
        if path == "/files":
            return _listed([_file(file_id, name, data) for file_id, (name, data) in self._files.items()])
        if path.startswith("/files/"):
            return Reply(body=self._files[path.split("/")[2]][1], headers={"content-type": "application/octet-stream"})
        if path == "/batches" and method == "POST":
            return self._made(json.loads(content))
        if path == "/batches":
            return _listed(list(self.batches.values()))
        if path.startswith("/batches/"):
            return self._looked_at(path.split("/")[2])
        return error(404, f"no such path {path}")

    def _completions(self, path: str, body: dict[str, Any]) -> Reply:
        prompt = self._text(body)
        with self._lock:
            call = Call(path, body, prompt, self._asked[prompt])
            self._asked[prompt] += 1
            self.calls.append(call)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            if body["model"] != self.model:
                return error(404, f"The model `{body['model']}` does not exist", code="model_not_found")
            if (scripted := self.fault(call)) is not None:
                return scripted
            time.sleep(self.delay_s)
            return Reply(body=json.dumps(self.completions(path, body)).encode())
        finally:
            with self._lock:
                self._now -= 1

    def completions(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply without faults."""
        prompt = self._text(body)
        text = self.answer(prompt)
        prompt_ids, ids = self._ids(prompt, special=path == "/completions"), self._ids(text, special=False)
        vllm = bool(body.get("return_token_ids"))
        wanted = body.get("logprobs")
        if path == "/chat/completions":
            wanted = body.get("top_logprobs", 0) if wanted else None
        logprobs = None
        if wanted is not None and self.tokenizer is not None:
            logprobs = self._logprobs(path, [*ids, *([self.tokenizer.eos_token_id] if vllm else [])], wanted, vllm)
        choices = []
        for i in range(body.get("n", 1)):
            said = (
                {"message": {"role": "assistant", "content": text}} if path == "/chat/completions" else {"text": text}
            )
            choice = {"index": i, **said, "finish_reason": "stop", "logprobs": logprobs}
            if vllm:
                choice |= {"token_ids": [*ids, self.tokenizer.eos_token_id], "prompt_token_ids": prompt_ids}
            choices.append(choice)
        usage = {"prompt_tokens": len(prompt_ids), "completion_tokens": len(ids) * len(choices)}
        return {"id": "1", "object": "x", "created": 1, "model": self.model, "choices": choices, "usage": usage}

    def _logprobs(self, path: str, ids: list[int], k: int, by_number: bool) -> dict[str, Any]:
        values = [dict(self.distribution(token))[token] for token in ids]
        rows = [(token, value, self.distribution(token)[:k]) for token, value in zip(ids, values, strict=True)]
        if path == "/completions":
            spell = (lambda t: f"token_id:{t}") if by_number else lambda t: _legacy(self.spelled(t))
            return {
                "tokens": [spell(token) for token, _, _ in rows],
                "token_logprobs": values,
                "top_logprobs": [{spell(t): value for t, value in top} for _, _, top in rows],
            }

        def entry(token: int, value: float) -> dict[str, Any]:
            spelled = self.spelled(token)
            name = f"token_id:{token}" if by_number else spelled.decode(errors="replace")
            return {"token": name, "bytes": list(spelled), "logprob": value}

        content = [
            entry(token, own) | {"top_logprobs": [entry(t, value) for t, value in top]} for token, own, top in rows
        ]
        return {"content": content}

    def distribution(self, token: int) -> list[tuple[int, float]]:
        """Tokens and logprobs where `token` was drawn, the most probable first: it, and those numbered after it."""
        size, special = len(self.tokenizer), set(self.tokenizer.all_special_ids) - {token}
        others = [t for t in ((token + j) % size for j in range(1, 40)) if t not in special]
        return [(token, math.log(0.5)), *((t, math.log(0.25) - 0.5 * j) for j, t in enumerate(others))]

    def spelled(self, token: int) -> bytes:
        """The bytes of a byte-level token."""
        back = {character: byte for byte, character in bytes_to_unicode().items()}
        return bytes(back[c] for c in self.tokenizer.convert_ids_to_tokens(token))

    def _text(self, body: Mapping[str, Any]) -> str:
        if "prompt" in body:
            return str(body["prompt"])
        if self.tokenizer is None:
            return json.dumps(body["messages"], ensure_ascii=False)
        return str(self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True))

    def _ids(self, text: str, *, special: bool) -> list[int]:
        if self.tokenizer is None:
            return [0] * len(text.split())
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _uploaded(self, kind: str, content: bytes) -> Reply:
        message = BytesParser(policy=HTTP).parsebytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + content)
        (part,) = [part for part in message.iter_parts() if part.get_filename()]  # type: ignore[attr-defined]
        with self._lock:
            file_id = self._keep(part.get_filename(), part.get_payload(decode=True))
            self.uploads.append(part.get_filename())
        return Reply(body=json.dumps(_file(file_id, *self._files[file_id])).encode())

    def _keep(self, name: str, data: bytes) -> str:
        file_id = f"file-{len(self._files)}"
        self._files[file_id] = (name, data)
        return file_id

    def _made(self, body: dict[str, Any]) -> Reply:
        with self._lock:
            batch = {
                "id": f"batch-{len(self.batches)}",
                "object": "batch",
                "status": "validating",
                "created_at": 1,
                "polls": 0,
                **body,
            }
            self.batches[batch["id"]] = batch
        self.created()
        return Reply(body=json.dumps(batch).encode())

    def _looked_at(self, batch_id: str) -> Reply:
        with self._lock:
            batch = self.batches[batch_id]
            batch["polls"] += 1
            batch["status"] = "in_progress"
            if batch["polls"] >= self.polls:
                batch["status"] = self.batch_status
                if self.batch_status == "failed":
                    batch["errors"] = {
                        "object": "list",
                        "data": [{"code": "invalid", "message": "line 1 is no request"}],
                    }
                elif "output_file_id" not in batch:
                    self._finish(batch)
        return Reply(body=json.dumps(batch).encode())

    def _finish(self, batch: dict[str, Any]) -> None:
        lines = [json.loads(line) for line in self._files[batch["input_file_id"]][1].splitlines()]
        good, bad = [], []
        for line in reversed(lines):  # in no order that anybody may count on
            if len(good) == self.answered:
                bad.append({"custom_id": line["custom_id"], "error": {"code": "batch_expired", "message": "too late"}})
                continue
            body = self.completions(line["url"].removeprefix("/v1"), line["body"])
            good.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None})
        for name, rows in (("output_file_id", good), ("error_file_id", bad)):
            data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
            batch[name] = self._keep(name, data) if rows else None


def _file(file_id: str, name: str, data: bytes) -> dict[str, Any]:
    return {
        "id": file_id,
        "object": "file",
        "bytes": len(data),
        "created_at": 1,
        "filename": name,
        "purpose": "batch",
        "status": "processed",
    }


def _listed(items: list[dict[str, Any]]) -> Reply:
    return Reply(body=json.dumps({"object": "list", "data": items, "has_more": False}).encode())


def _legacy(spelled: bytes) -> str:
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)
