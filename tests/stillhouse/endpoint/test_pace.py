"""How many requests go out at once."""

from __future__ import annotations

import asyncio

from stillhouse.endpoint.pace import START, Pace


def test_rises_fast_until_the_first_trouble_then_slowly() -> None:
    async def ask() -> list[int]:
        pace = Pace(100)
        limits = [pace.limit]
        for _ in range(START):
            async with pace.turn() as turn:
                turn.answered()
        limits.append(pace.limit)
        async with pace.turn() as turn:
            turn.busy()
        limits.append(pace.limit)
        for _ in range(START + 1):
            async with pace.turn() as turn:
                turn.answered()
        return [*limits, pace.limit]

    assert asyncio.run(ask()) == [START, 2 * START, START, START + 1]


def test_stays_between_one_and_the_most() -> None:
    async def ask() -> list[int]:
        pace = Pace(6)
        for _ in range(50):
            async with pace.turn() as turn:
                turn.answered()
        most = pace.limit
        for _ in range(50):
            async with pace.turn() as turn:
                turn.busy()
        return [most, pace.limit]

    assert asyncio.run(ask()) == [6, 1]


def test_requests_that_fail_together_are_one_trouble() -> None:
    async def ask() -> int:
        pace = Pace(64)
        together = asyncio.Event()

        async def fail() -> None:
            async with pace.turn() as turn:
                await together.wait()
                turn.busy()

        tasks = [asyncio.create_task(fail()) for _ in range(START)]
        await asyncio.sleep(0)
        together.set()
        await asyncio.gather(*tasks)
        return pace.limit

    assert asyncio.run(ask()) == START // 2


def test_no_more_turns_than_the_limit() -> None:
    async def ask() -> tuple[int, int]:
        pace = Pace(START)
        now = most = done = 0

        async def one() -> None:
            nonlocal now, most, done
            async with pace.turn() as turn:
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1
                done += 1
                turn.answered()

        await asyncio.gather(*(one() for _ in range(50)))
        return most, done

    assert asyncio.run(ask()) == (START, 50)


def test_a_cancelled_request_gives_its_turn_back() -> None:
    async def ask() -> str:
        pace = Pace(1)

        async def hold() -> None:
            async with pace.turn():
                await asyncio.Event().wait()

        held = asyncio.create_task(hold())
        await asyncio.sleep(0)
        waiting = asyncio.create_task(hold())
        await asyncio.sleep(0)
        for task in (waiting, held):
            task.cancel()
        await asyncio.gather(waiting, held, return_exceptions=True)
        async with pace.turn():
            return "free"

    assert asyncio.run(ask()) == "free"


def test_asks_nothing_while_the_endpoint_wants_to_be_left_alone() -> None:
    async def ask() -> float:
        loop, pace = asyncio.get_running_loop(), Pace(4)
        async with pace.turn() as turn:
            turn.busy(0.05)
        closed = loop.time()
        async with pace.turn():
            return loop.time() - closed

    assert asyncio.run(ask()) >= 0.04
