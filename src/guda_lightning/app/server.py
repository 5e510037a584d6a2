"""The page behind ``guda app``: one process, one model, one question at a time."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import resources
from typing import Any

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from guda_lightning.app.answers import Answers
from guda_lightning.app.guard import Guard, is_loopback
from guda_lightning.app.pictures import MAX_BYTES, conditioned, dropped, refuse_large, whole
from guda_lightning.errors import GudaError
from guda_lightning.report.pictures import PIXEL_ART, data_uri
from guda_lightning.stages.opened import Configured, Run
from guda_lightning.types import Queries

PARTS = ("groups", "map", "without", "nearest")
_DOING = ("scoring", "looking for regions", "drawing it without the group", "looking for training images")
_EXAMPLE_PIXELS = 120
_FILES = {"app.css": "text/css", "app.js": "text/javascript"}  # what the page loads

Send = Callable[[Mapping[str, Any]], None]


class _Left(Exception):
    """Nobody waits for the answer any more."""


def app_of(answers: Answers, host: str) -> Starlette:
    """The page as an ASGI application.

    Args:
        answers: What it shows.
        host: The address that it listens on.
    """
    site = _Site(answers)
    routes = [Route("/", site.page), Route("/answer", site.answer, methods=["POST"])]
    routes += [Route(f"/{name}", partial(_file, name, kind)) for name, kind in _FILES.items()]
    return Starlette(routes=routes, middleware=[Middleware(Guard, local=is_loopback(host))])


def _file(name: str, kind: str, request: Request) -> Response:
    return Response(resources.files("guda_lightning.app").joinpath(name).read_bytes(), media_type=kind)


class _Site:
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._one_at_a_time = ThreadPoolExecutor(1, "answer")
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("guda_lightning.app", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
        )

    def page(self, request: Request) -> Response:
        answers = self._answers
        run, examples = answers.run, answers.examples.queries
        channels, height, width = run.data.image_shape
        text = self._templates.get_template("page.html.j2").render(
            title=run.folder.name,
            worth=answers.worth,
            parts=PARTS,
            most=MAX_BYTES,
            width=width,
            height=height,
            gray=channels == 1,
            pixelated=max(width, height) <= PIXEL_ART,
            condition=answers.condition,
            examples=[]
            if examples is None
            else [
                (name, data_uri(image, _EXAMPLE_PIXELS))
                for name, image in zip(examples.ids, examples.images, strict=True)
            ],
        )
        return HTMLResponse(text)

    async def answer(self, request: Request) -> Response:
        """Lines of JSON: what is asked, how far the answer is, and each part as it is known."""
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_BYTES:
                return PlainTextResponse("too large", 413)
        asked = {"name": "", "size": "0", "query": "", "condition": "", **request.query_params}
        return StreamingResponse(self._lines(asked, bytes(content)), media_type="application/x-ndjson")

    async def _lines(self, asked: Mapping[str, str], content: bytes) -> AsyncIterator[str]:
        """The lines of an answer, made by another thread; that ends when nobody reads them any more."""
        loop, lines, left = asyncio.get_running_loop(), asyncio.Queue[str | None](), threading.Event()

        def send(line: Mapping[str, Any] | None) -> None:
            if left.is_set():
                raise _Left
            loop.call_soon_threadsafe(lines.put_nowait, None if line is None else json.dumps(line) + "\n")

        def work() -> None:
            with suppress(_Left):
                try:
                    self._work(asked, content, send)
                finally:
                    send(None)

        working = loop.run_in_executor(self._one_at_a_time, work)
        try:
            while (line := await lines.get()) is not None:
                yield line
            await working  # raises what is no fault of the user
        finally:
            left.set()

    def _work(self, asked: Mapping[str, str], content: bytes, send: Send) -> None:
        try:
            query, about = self._query(asked, content)
            send({"asked": about})
            done, total = 0, self._answers.evaluations()
            doing = iter(_DOING)
            now = next(doing)

            def tick(count: int) -> None:
                nonlocal done
                done += count
                send({"done": done / total, "doing": now})

            send({"done": 0, "doing": now})
            for part in self._answers.parts(query, bool(asked["query"]), tick):
                send({"part": part.name, "html": self._html(part.name, part.values)})
                now = next(doing, now)
                send({"done": done / total, "doing": now})
        except GudaError as error:
            values = {name: str(getattr(error, name)) for name in ("problem", "found", "expected", "fix")}
            send({"part": "error", "html": self._html("error", values)})
        except _Left:
            raise
        except Exception as error:
            values = {"problem": "guda app failed", "found": f"{type(error).__name__}: {error}"}
            values |= {"expected": "an answer", "fix": "the terminal that it runs in says more"}
            send({"part": "error", "html": self._html("error", values)})
            raise

    def _query(self, asked: Mapping[str, str], content: bytes) -> tuple[Queries, str]:
        """The query, and a line about it.

        Raises:
            QueryError: There is none, or it does not fit.
        """
        answers, data = self._answers, self._answers.run.data
        if asked["query"]:
            return answers.examples.one(asked["query"]), f"{asked['query']}, a query of this run."
        refuse_large(whole(asked["size"]) or 0)  # the browser sends no content of what is too large
        picture = dropped(content, data.image_shape)
        query = conditioned(picture.query, asked["condition"], data, answers.run.full.model.conditional)
        return query, f"{asked['name'] or 'The picture'}{picture.note and f', {picture.note}'}."

    def _html(self, part: str, values: Mapping[str, Any]) -> str:
        text: str = getattr(self._templates.get_template("parts.html.j2").module, part)(values)
        return text


def serve(run: Run | Configured, by: str, listener: socket.socket, host: str) -> None:
    """Read a run and serve its page until Ctrl-C.

    Args:
        run: The run.
        by: The kind of the posterior that answers.
        listener: The socket that the page is asked on.
        host: The address that it is bound to.

    Raises:
        GudaError: The run cannot be read, or has no such posterior.
    """
    answers = Answers(run, by)
    examples = answers.examples.queries
    if examples is not None:  # what cannot be scored is refused now, and no answer waits later
        next(answers.parts(examples.take([0]), True, lambda evaluations: None))
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    if not is_loopback(host):
        print(
            f"app: listening on {host}: whoever reaches this machine can open the page, see training images "
            "and queries of this run, and make it compute; nothing asks for a password",
            flush=True,
        )
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else shown
    print(f"app: open http://{shown}:{port} (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(
        app_of(answers, host), log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once all is closed
        uvicorn.Server(config).run(sockets=[listener])
    print("\napp: ended", flush=True)
