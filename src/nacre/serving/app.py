"""The server's paths.

POST /predict                 {"text": ..., "task": ...} or {"messages": [...]} or {"questions": [...]}
POST /v1/completions          as OpenAI's, where the model writes
POST /v1/chat/completions
GET  /v1/models
GET  /health, /metrics        for whoever watches the server
GET  /, POST /                a page to try it
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web
from markupsafe import Markup

from nacre.documents import parse_json, shown_text
from nacre.errors import DataError, NacreError
from nacre.printable import one_line
from nacre.report import environment, palette
from nacre.serving.completions import answer_of, models_of, questions_of
from nacre.serving.engine import Busy, Engine, Served
from nacre.serving.metrics import ServerMetrics
from nacre.store.answering import Question, question_of

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
MOST_QUESTIONS = 1000
"""Questions of one request."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def app_of(engine: Engine, metrics: ServerMetrics, *, name: str, most_bytes: int, loopback: bool) -> web.Application:
    """The server.

    Args:
        engine: Who answers; it is stopped when the server ends.
        metrics: Its counters.
        name: What the store's model is called.
        most_bytes: Of a request's body.
        loopback: Whether only this machine may ask. Then other names in the Host header are refused, by which a page
            in a browser could reach the server.
    """
    server = _Server(engine, metrics, name, loopback)
    app = web.Application(client_max_size=most_bytes, middlewares=[server.guarded])
    app.add_routes(
        [
            web.post("/predict", server.predict),
            web.post("/v1/completions", server.completions),
            web.post("/v1/chat/completions", server.chat),
            web.get("/v1/models", server.models),
            web.get("/health", server.health),
            web.get("/metrics", server.metrics_text),
            web.get("/", server.page),
            web.post("/", server.page_answered),
        ]
    )

    async def stop(_: web.Application) -> None:
        await asyncio.to_thread(engine.stop)

    app.on_cleanup.append(stop)
    return app


class _Server:
    def __init__(self, engine: Engine, metrics: ServerMetrics, name: str, loopback: bool) -> None:
        self.engine, self.metrics, self.name, self.loopback = engine, metrics, name, loopback

    @web.middleware
    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse in one line whatever cannot be answered, and count."""
        started = time.monotonic()
        response = await self._answered(request, handler)
        path = request.path if request.match_info.http_exception is None else "other"
        self.metrics.requests.labels(path, str(response.status)).inc()
        self.metrics.seconds.labels(path).observe(time.monotonic() - started)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.loopback and _host(request) not in LOOPBACK:
            return refused(403, "This server answers its own machine only, by the name localhost or 127.0.0.1.")
        try:
            return await handler(request)
        except Busy as error:
            return refused(503, str(error), {"Retry-After": "1"})
        except NacreError as error:
            return refused(400, str(error))
        except web.HTTPRequestEntityTooLarge:
            return refused(413, f"A request's body has at most {request.client_max_size:,} bytes.")
        except web.HTTPException as error:
            return refused(error.status, f"{request.method} {shown_text(request.path)}: {error.reason}.")
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("A request was not answered")
            return refused(500, "This request could not be answered; the server's log says why.")

    async def predict(self, request: web.Request) -> web.Response:
        document = await _json(request)
        several = isinstance(document, dict) and "questions" in document
        if several and set(document) != {"questions"}:
            raise DataError("A request with 'questions' has no other key.")
        asked = document["questions"] if several else [document]
        if not isinstance(asked, list) or not 0 < len(asked) <= MOST_QUESTIONS:
            raise DataError(f"'questions' is a list of 1 to {MOST_QUESTIONS} questions.")
        answers = await self._ask([question_of(each, "") for each in asked])
        plain = [{"version": each.version, **each.reply.document()} for each in answers]
        return web.json_response({"answers": plain} if several else plain[0])

    async def completions(self, request: web.Request) -> web.Response:
        return await self._completed(request, chat=False)

    async def chat(self, request: web.Request) -> web.Response:
        return await self._completed(request, chat=True)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response(models_of(self.name, self.engine.tasks, self.engine.version))

    async def health(self, request: web.Request) -> web.Response:
        engine = self.engine
        document = {"version": engine.version, "tasks": list(engine.tasks), "waiting": engine.waiting}
        if engine.trouble is not None:
            return web.json_response({"status": "degraded", "trouble": engine.trouble, **document})
        return web.json_response({"status": "ok", **document})

    async def metrics_text(self, request: web.Request) -> web.Response:
        body = self.metrics.text(self.engine.version, self.engine.waiting)
        return web.Response(body=body, content_type="text/plain", charset="utf-8")

    async def page(self, request: web.Request) -> web.Response:
        return self._page("", "", None, "")

    async def page_answered(self, request: web.Request) -> web.Response:
        form = await request.post()
        text, task = form.get("text", ""), form.get("task", "")
        if not isinstance(text, str) or not isinstance(task, str):
            raise DataError("The page sends a text and a task.")
        try:
            found = (await self._ask([question_of({"text": text, "task": task}, "")]))[0]
        except NacreError as error:
            return self._page(text, task, None, str(error))
        return self._page(text, task, found, "")

    async def _completed(self, request: web.Request, *, chat: bool) -> web.Response:
        document = await _json(request)
        if not self.engine.writes:
            raise DataError("This store answers with labels: ask it by POST /predict.")
        questions = questions_of(document, chat=chat, served=self.name, tasks=self.engine.tasks)
        if len(questions) > MOST_QUESTIONS:
            raise DataError(f"A request has at most {MOST_QUESTIONS} prompts.")
        answers = await self._ask(questions)
        tokens = self.engine.count_tokens
        return web.json_response(answer_of(answers, chat=chat, model=document["model"], tokens=tokens))

    async def _ask(self, questions: Sequence[Question]) -> list[Served]:
        futures = [asyncio.wrap_future(self.engine.ask(question)) for question in questions]
        answers: list[Served] = []
        for number, found in enumerate(await asyncio.gather(*futures, return_exceptions=True), start=1):
            if isinstance(found, NacreError) and len(questions) > 1:
                raise DataError(f"Question {number}: {found}")
            if isinstance(found, BaseException):
                raise found
            answers.append(found)
        return answers

    def _page(self, text: str, task: str, found: Served | None, error: str) -> web.Response:
        template = environment().get_template("serve.html.j2")
        page = template.render(
            name=self.name,
            version=self.engine.version,
            tasks=self.engine.tasks,
            text=text,
            task=task,
            found=found,
            error=error,
            heat_colors=Markup(palette.css()),
        )
        return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": POLICY})


def refused(status: int, line: str, headers: dict[str, str] | None = None) -> web.Response:
    """A refusal: a status and one line that says why."""
    error = {"message": one_line(line), "type": "invalid_request_error" if status < 500 else "server_error"}
    return web.json_response({"error": error}, status=status, headers=headers)


async def _json(request: web.Request) -> Any:
    """The body of a request.

    Raises:
        DataError: If it is not JSON in UTF-8, or is not called so: a page in a browser could send it otherwise.
    """
    if request.content_type != "application/json":
        raise DataError("A request's body is JSON, and its Content-Type is application/json.")
    try:
        return parse_json((await request.read()).decode())
    except UnicodeDecodeError:
        raise DataError("The body is not UTF-8.") from None
    except ValueError as error:
        raise DataError(f"The body is not JSON: {shown_text(str(error))}.") from None


def _host(request: web.Request) -> str:
    """The name in the Host header, without the port."""
    host = request.headers.get("Host", "")
    return host if host.endswith("]") else host.rpartition(":")[0] or host
