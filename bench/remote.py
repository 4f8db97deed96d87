"""Compare the remote backend with a bare asyncio client of the same server, at the client's best concurrency.

docmill runs end to end, through Redis into PostgreSQL, with a warm worker. The worker itself chooses the number of
concurrent requests. The client has the texts in memory, sends a fixed number of concurrent requests with aiohttp, and
discards the answers. By default, the server is a stand-in. It computes `--places` texts at a time while other texts
wait. The time of a text is lognormal and follows from the text's hash. With `--endpoint` and `--model`, the server is
a real one. Each run has new texts.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import NormalDist

import aiohttp
from aiohttp import web

from bench.fleet import Fleet, fleet
from bench.generate import texts
from bench.pairs import Claim, Comparison, Run, interleave, write

STAND_IN = "stand-in"
SIGMA = 0.35  # standard deviation of the logarithm of a text's time


def compute_seconds(text: str, median_s: float) -> float:
    """Return the seconds that the stand-in takes for a text: a quantile of a lognormal distribution, by its hash."""
    quantile = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") + 1) / (2**48 + 2)
    return median_s * math.exp(SIGMA * NormalDist().inv_cdf(quantile))


def serve(places: int, median_s: float) -> None:
    """Run the stand-in: print its URL, and answer requests until the process is killed."""
    computing = asyncio.Semaphore(places)

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": STAND_IN, "max_model_len": 8192}]})

    async def chat(request: web.Request) -> web.Response:
        text = (await request.json())["messages"][-1]["content"]
        async with computing:
            await asyncio.sleep(compute_seconds(text, median_s))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 60, "completion_tokens": 48}})

    async def run() -> None:
        app = web.Application()
        app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", chat)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        sys.stdout.write(f"http://{host}:{port}/v1\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    asyncio.run(run())


async def _send_all(endpoint: str, model: str, batch: Sequence[str], at_a_time: int, tokens: int) -> None:
    """Send each text, with `at_a_time` concurrent requests."""
    limit = asyncio.Semaphore(at_a_time)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send(text: str) -> None:
            body = {
                "model": model,
                "temperature": 0,
                "max_tokens": tokens,
                "logprobs": True,
                "messages": [{"role": "user", "content": text}],
            }
            async with limit, session.post(f"{endpoint}/chat/completions", json=body) as response:
                response.raise_for_status()
                assert (await response.json())["choices"]

        await asyncio.gather(*map(send, batch))


def build_client_side(endpoint: str, model: str, at_a_time: int, tokens: int) -> Callable[[int, int], Run]:
    """Return the side of the client with a fixed number of concurrent requests."""

    def work(run: int, count: int) -> Run:
        batch = texts(run, count)
        began = time.perf_counter()
        asyncio.run(_send_all(endpoint, model, batch, at_a_time, tokens))
        return Run(count, time.perf_counter() - began)

    return work


def build_docmill_side(installation: Fleet, model: str, tokens: int) -> Callable[[int, int], Run]:
    """Return the side of docmill with a warm worker."""

    def work(run: int, count: int) -> Run:
        task_options = {"prompt": "{text}", "max_new_tokens": tokens}
        seconds, _ = installation.run(texts(run, count), "generate", f"openai:{model}", **task_options)
        return Run(count, seconds)

    return work


def compare(endpoint: str, model: str, options: argparse.Namespace) -> Comparison:
    """Compare docmill with the client at each concurrency."""
    runs = itertools.count()
    with (
        tempfile.TemporaryDirectory() as work,
        fleet(Path(work) / "fleet", lane="generate", endpoint=endpoint) as installation,
    ):
        sides: dict[str, Callable[[int, int], Run]] = {
            "docmill": build_docmill_side(installation, model, options.tokens),
        }
        for at_a_time in options.at_a_time:
            client = build_client_side(endpoint, model, at_a_time, options.tokens)
            sides[f"client, {at_a_time} at a time"] = client
        return interleave(
            f"{options.prompts:,} texts by {options.server}",
            "texts",
            {name: lambda side=side: side(next(runs), options.prompts) for name, side in sides.items()},  # type: ignore[misc]
            pairs=options.pairs,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=2_000)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--places", type=int, default=32, help="texts that the stand-in computes at a time")
    parser.add_argument("--median-s", type=float, default=0.5, help="the median time of the stand-in for a text")
    parser.add_argument("--endpoint", help="a real server instead")
    parser.add_argument("--model", help="the model of the real server")
    parser.add_argument(
        "--server", default="a stand-in with a fixed distribution of times", help="a description of the server"
    )
    parser.add_argument("--serve", action="store_true", help="for the benchmark itself")
    parser.add_argument("--name", default="remote", help="name of the result files")
    options = parser.parse_args()
    if options.serve:
        return serve(options.places, options.median_s)
    with ExitStack() as stack:
        endpoint, model = options.endpoint, options.model or STAND_IN
        if endpoint is None:
            command = [sys.executable, "-m", "bench.remote", "--serve", "--places", str(options.places)]
            server = stack.enter_context(
                subprocess.Popen([*command, "--median-s", str(options.median_s)], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(server.kill)
            assert server.stdout is not None
            endpoint = server.stdout.readline().strip()
        comparison = compare(endpoint, model, options)
        best = comparison.best(*(side for side in comparison.sides if side != "docmill"))
        claims = [Claim("docmill ÷ the client at its best", "docmill", best, 0.97)]
        stand_in = {"places": options.places, "median_s": options.median_s} if options.endpoint is None else {}
        write(options.name, [comparison], [claims], server=options.server, **stand_in, best=best)
    return None


if __name__ == "__main__":
    main()
