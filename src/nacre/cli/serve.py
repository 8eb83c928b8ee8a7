"""`nacre serve`: a store that answers over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from nacre.cli.screen import say, screen


def serve(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store.")],
    host: Annotated[str, typer.Option(help="The address to listen at; 127.0.0.1 is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Questions answered at once, at most.")] = 64,
    waiting: Annotated[int, typer.Option(min=1, help="Questions that may wait; more are refused with 503.")] = 4096,
    body: Annotated[int, typer.Option(min=1024, help="Bytes of a request, at most.")] = 1_000_000,
) -> None:
    """Answer over HTTP with the current version; a promotion or rollback takes over without a lost request."""
    import socket

    from nacre.errors import RecipeError
    from nacre.optional import need
    from nacre.store.store import Store

    opened = Store.open(store)
    web = need("aiohttp.web", "Serving", "serve")
    need("prometheus_client", "Serving", "serve")
    from nacre.files import full_path
    from nacre.serving.app import LOOPBACK, app_of
    from nacre.serving.engine import Engine
    from nacre.serving.metrics import ServerMetrics

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise RecipeError(f"--host {host} --port {port}: {error.strerror or error}; choose another one.") from None
    metrics = ServerMetrics()
    engine = Engine(opened, batch=batch, waiting=waiting, observe=metrics.batch)
    engine.start()
    name = full_path(opened.path).name
    loopback = host in LOOPBACK or host.startswith("127.")
    app = app_of(engine, metrics, name=name, most_bytes=body, loopback=loopback)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    say(screen(), f"Version {engine.version} of {store} answers at {address}; Ctrl-C ends it.")
    if not loopback:
        say(
            screen(error=True),
            "Warning: anyone who reaches this address may ask; put a server before it that checks.",
        )
    web.run_app(app, sock=listener, print=None, access_log=None)
