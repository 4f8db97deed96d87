"""Measure the remote backend beside a bare asyncio client of the same server, at the client's best concurrency.

docmill runs end to end, through Redis into PostgreSQL, with a warm worker, which chooses the number of requests at a
time by itself. The client has the texts in memory, sends them with aiohttp, so many at a time, and drops the answers.
By default the server is a stand-in: it takes a fixed time for each text, by its hash, from a lognormal distribution,
and computes `--places` texts at a time; others wait in its queue. With `--endpoint` and `--model` it is a real one.
Each run has new texts.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
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
from bench.pairs import Claim, Comparison, Run, interleave, write

WORDS = 40
EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "descriptions.jsonl"
STAND_IN = "stand-in"
SIGMA = 0.35  # of the logarithm of the time of a text


def texts(run: int, count: int) -> list[str]:
    """Descriptions of 40 words, other ones for each run: the number in front makes them so."""
    lines = [json.loads(line)["text"] for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    return [f"{run}.{n}. " + " ".join(lines[n % len(lines)].split()[:WORDS]) for n in range(count)]


def seconds_of(text: str, median_s: float) -> float:
    """Return the time of a text: lognormal, by its hash."""
    share = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") + 1) / (2**48 + 2)
    return median_s * math.exp(SIGMA * NormalDist().inv_cdf(share))


def serve(places: int, median_s: float) -> None:
    """Be the stand-in: print the URL, and answer until the process is killed."""
    computing = asyncio.Semaphore(places)

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": STAND_IN, "max_model_len": 8192}]})

    async def chat(request: web.Request) -> web.Response:
        text = (await request.json())["messages"][-1]["content"]
        async with computing:
            await asyncio.sleep(seconds_of(text, median_s))
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


async def _ask(endpoint: str, model: str, batch: Sequence[str], at_a_time: int, tokens: int) -> None:
    """Ask about each text, so many at a time."""
    places = asyncio.Semaphore(at_a_time)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(text: str) -> None:
            body = {
                "model": model,
                "temperature": 0,
                "max_tokens": tokens,
                "logprobs": True,
                "messages": [{"role": "user", "content": text}],
            }
            async with places, session.post(f"{endpoint}/chat/completions", json=body) as response:
                response.raise_for_status()
                assert (await response.json())["choices"]

        await asyncio.gather(*map(one, batch))


def bare(endpoint: str, model: str, at_a_time: int, tokens: int) -> Callable[[int, int], Run]:
    """The client with a fixed number of requests at a time."""

    def work(run: int, count: int) -> Run:
        batch = texts(run, count)
        began = time.perf_counter()
        asyncio.run(_ask(endpoint, model, batch, at_a_time, tokens))
        return Run(count, time.perf_counter() - began)

    return work


def docmill(through: Fleet, model: str, tokens: int) -> Callable[[int, int], Run]:
    """docmill with a warm worker."""

    def work(run: int, count: int) -> Run:
        given = {"prompt": "{text}", "max_new_tokens": tokens}
        seconds, _ = through.run(texts(run, count), "generate", f"openai:{model}", **given)
        return Run(count, seconds)

    return work


def compared(endpoint: str, model: str, given: argparse.Namespace) -> Comparison:
    """Return the runs of docmill, and of the client at each concurrency."""
    runs = itertools.count()
    with (
        tempfile.TemporaryDirectory() as work,
        fleet(Path(work) / "fleet", lane="generate", endpoint=endpoint) as one,
    ):
        sides: dict[str, Callable[[int, int], Run]] = {"docmill": docmill(one, model, given.tokens)}
        for at_a_time in given.at_a_time:
            sides[f"client, {at_a_time} at a time"] = bare(endpoint, model, at_a_time, given.tokens)
        return interleave(
            f"{given.prompts:,} texts by {given.server}",
            "texts",
            {name: lambda side=side: side(next(runs), given.prompts) for name, side in sides.items()},  # type: ignore[misc]
            pairs=given.pairs,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=2_000)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--places", type=int, default=32, help="texts that the stand-in computes at a time")
    parser.add_argument("--median-s", type=float, default=0.5, help="the median of the stand-in's time for a text")
    parser.add_argument("--endpoint", help="a real server instead")
    parser.add_argument("--model", help="its model")
    parser.add_argument(
        "--server", default="a stand-in with a fixed distribution of times", help="what it is, in words"
    )
    parser.add_argument("--serve", action="store_true", help="for the benchmark itself")
    parser.add_argument("--name", default="remote", help="of the files with the results")
    given = parser.parse_args()
    if given.serve:
        return serve(given.places, given.median_s)
    with ExitStack() as stack:
        endpoint, model = given.endpoint, given.model or STAND_IN
        if endpoint is None:
            command = [sys.executable, "-m", "bench.remote", "--serve", "--places", str(given.places)]
            server = stack.enter_context(
                subprocess.Popen([*command, "--median-s", str(given.median_s)], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(server.kill)
            assert server.stdout is not None
            endpoint = server.stdout.readline().strip()
        found = compared(endpoint, model, given)
        best = found.best(*(side for side in found.sides if side != "docmill"))
        claims = [Claim("docmill ÷ the client at its best", "docmill", best, 0.97)]
        facts = {"server": given.server, "places": given.places, "median_s": given.median_s}
        write(given.name, [found], [claims], **facts, best=best)
    return None


if __name__ == "__main__":
    main()
