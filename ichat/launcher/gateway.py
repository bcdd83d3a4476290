"""Keeps a gateway (smg) in front of several containers informed of this one, and never lets it harm serving."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable
from typing import Any, Protocol

from ichat.config.schema import Settings, Timeouts
from ichat.ipc.messages import RouteModel, Routes
from ichat.launcher.announcement import Announcement, Listed, PublicAddress, Steps, lead_to, next_steps, spelled
from ichat.launcher.gateway_api import GatewayApi, GatewayError
from ichat.launcher.gateway_story import Story

#: The first look whether the gateway has done what it was asked; each further one after twice as long.
_FIRST_LOOK_S = 0.05
#: A worker that was asked for is listed by then, or will not be soon.
_LISTED_AFTER_S = 1.0


class Board(Protocol):
    """What is asked of the launcher's board."""

    def health(self) -> tuple[bool, str]: ...

    def routes(self) -> Routes: ...

    def listen(self, listener: Callable[[], None]) -> None: ...


class Workers(Protocol):
    """What is asked of the gateway: see GatewayApi. Each may raise GatewayError."""

    name: str  # its address
    limit_s: float

    async def workers(self) -> list[Listed]: ...

    async def create(self, spec: dict[str, Any]) -> None: ...

    async def replace(self, worker: str, spec: dict[str, Any]) -> None: ...

    async def remove(self, worker: str) -> None: ...

    async def local_address(self) -> str: ...

    async def is_green(self, url: str) -> bool: ...


def registration_for(settings: Settings, board: Board, port: int, incarnation: str) -> Registration:
    """``port`` is the one that was bound; ``incarnation`` is no other container's, ever."""
    api = GatewayApi(settings.gateway, settings.timeouts.gateway_limit_s)
    scheme = "http" if settings.server.tls_cert_file is None else "https"
    address = PublicAddress(settings.server.host, port, scheme, settings.gateway.advertise)
    return Registration(api, board, address, incarnation, settings.timeouts)


class Registration:
    """``start()`` is for the whole life of the launcher, ``withdraw()`` the first step of its shutdown.

    1. What the gateway still lists at our address from a life before this one is removed.
    2. As soon as the whole is ready every model is announced, and looked for in the gateway's list until it is there.
    3. Every ``gateway_every_s`` the list is asked for again: a gateway that has forgotten us is told anew, one that
       lists something else (names have changed, an old life) is corrected.
    4. When no model has been ready for ``gateway_every_s`` all are withdrawn, and announced anew with readiness.
       Requests that a reload holds count as answered.

    Whatever the gateway does costs a warning when it begins and a line when it is over, and nothing else.
    """

    def __init__(
        self, api: Workers, board: Board, address: PublicAddress, incarnation: str, timeouts: Timeouts
    ) -> None:
        self._api, self._board, self._timeouts = api, board, timeouts
        self.address, self._incarnation = address, incarnation
        self._url = address.advertise
        self._spellings: dict[str, int] = {}  # of each model's URL
        self._kept: set[str] = set()  # models that are announced as things are
        self._red_since: float | None = None  # no model is answered since then
        self._confirmed: set[str] = set()  # URLs at which the gateway has listed us
        self._is_clean = False  # nothing is wanted and nothing listed
        self._created_at = -math.inf
        self._looks = 0
        self._is_troubled = False
        self._story = Story(api.name)
        self._seen: object = None
        self._news = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        board.listen(self._look_at_board)

    def start(self) -> None:
        """From now on, until ``withdraw()``. A bug in here ends it with an error in the log, and nothing else."""
        self._keeping = asyncio.create_task(self._keep(), name="gateway registration")
        self._keeping.add_done_callback(self._tell_bug)

    def take(self, settings: Settings) -> None:
        """Of what a reload has changed the waits hold from now on; another gateway takes a restart."""
        self._timeouts, self._api.limit_s = settings.timeouts, settings.timeouts.gateway_limit_s

    async def withdraw(self, limit_s: float) -> None:
        """Returns when the gateway has stopped choosing us, after ``limit_s`` at the latest. Never raises."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        has_asked = bool(self._confirmed) or self._created_at > -math.inf
        if self._is_clean or not has_asked:
            return  # it does not list us
        trouble: GatewayError | None = None
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        await self._leave()
                    except GatewayError as error:
                        trouble = error
                        await asyncio.sleep(_FIRST_LOOK_S * 2)
                    else:
                        self._story.withdrawn()
                        return
        except TimeoutError:
            self._story.not_withdrawn(trouble or f"has not done it within {limit_s:g} s")

    async def _leave(self) -> None:
        loop = asyncio.get_running_loop()
        asked: set[str] = set()
        while True:
            ours = [one for one in await self._listed() if one.incarnation == self._incarnation and one.is_chosen]
            # What was asked for a moment ago may still be on its way into the list.
            if not ours and loop.time() - self._created_at >= _LISTED_AFTER_S:
                return
            for one in ours:
                if one.id not in asked:
                    asked.add(one.id)
                    await self._api.remove(one.id)
            await asyncio.sleep(_FIRST_LOOK_S)

    # ---- keeping it so ----------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._news.clear()
            delay_s = await self._step()
            # Never at the same moment as all the others that a restarted gateway has forgotten.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s * random.uniform(0.8, 1.0)):  # noqa: S311  no secret
                    await self._news.wait()

    async def _step(self) -> float:
        """Ask, compare, act: how long to wait until the next time."""
        wanted = self._wanted()
        if not wanted and self._is_clean:
            return self._timeouts.gateway_every_s
        try:
            announcements = await self._announcements(wanted)
            steps = next_steps(announcements, await self._listed(), self._incarnation, self._confirmed)
            if (steps.create or steps.replace) and not await self._is_green():
                return self._next_look_s()
            await self._take(steps)
        except GatewayError as error:
            self._story.trouble(error)
            self._is_troubled = True
            return self._next_look_s()
        if self._is_troubled:
            self._is_troubled, self._looks = False, 0
        self._tell(steps, announcements)
        if not steps.is_settled:
            return self._next_look_s()
        self._looks = 0
        return self._timeouts.gateway_every_s

    def _wanted(self) -> list[RouteModel]:
        """The models that should be listed now."""
        is_green, models = self._board.health()[0], self._board.routes().models
        if any(_is_answered(model) for model in models):
            self._red_since = None
        elif self._red_since is None:
            self._red_since = asyncio.get_running_loop().time()
        if self._red_since is not None and self._red_s() >= self._timeouts.gateway_every_s:
            self._kept.clear()
        wanted = [one for one in models if one.name in self._kept or (is_green and _is_answered(one))]
        self._kept = {model.name for model in wanted}
        self._is_clean = self._is_clean and not wanted
        return wanted

    def _red_s(self) -> float:
        return asyncio.get_running_loop().time() - (self._red_since or 0.0)

    async def _announcements(self, wanted: list[RouteModel]) -> list[Announcement]:
        """Each at a URL of its own, which it keeps as long as it is wanted."""
        base = await self._base_url()
        self._spellings = {name: at for name, at in self._spellings.items() if name in self._kept}
        for model in wanted:
            taken = set(self._spellings.values())
            free = next(number for number in range(len(wanted) + 1) if number not in taken)
            self._spellings.setdefault(model.name, free)
        return [
            Announcement.of(model, spelled(base, self._spellings[model.name]), self._incarnation) for model in wanted
        ]

    async def _base_url(self) -> str:
        if self._url is None:
            address = self.address
            self._url = address.seen_from(await self._api.local_address() if address.is_wildcard else address.host)
        return self._url

    async def _listed(self) -> list[Listed]:
        """What the gateway has at our address."""
        listed = lead_to(await self._base_url(), await self._api.workers())
        self._confirmed |= {one.url for one in listed if one.incarnation == self._incarnation}
        return listed

    async def _is_green(self) -> bool:
        """As the gateway will see it: smg asks for /health first, and whom it finds red it asks again after 30 s.

        The board is green a moment before the front is.
        """
        is_green = self._board.health()[0] and await self._api.is_green(self.address.from_here)
        if not is_green:
            self._story.not_green()
        return is_green

    async def _take(self, steps: Steps) -> None:
        """All of them, even if one is refused: the first refusal is told."""
        check_every_s = math.ceil(self._timeouts.gateway_every_s)
        calls = [self._api.remove(worker) for worker in steps.remove]
        calls += [self._api.replace(worker, one.spec(check_every_s)) for worker, one in steps.replace]
        calls += [self._api.create(one.spec(check_every_s)) for one in steps.create]
        if steps.create:
            self._created_at = asyncio.get_running_loop().time()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _next_look_s(self) -> float:
        self._looks += 1
        return min(self._timeouts.gateway_every_s, _FIRST_LOOK_S * 2.0 ** min(self._looks, 30))

    def _look_at_board(self) -> None:
        models = self._board.routes().models
        seen = (
            self._board.health()[0],
            [(one.served_names, one.backend, one.max_model_len, one.limits, _is_answered(one)) for one in models],
        )
        if seen != self._seen:
            self._seen, self._looks = seen, 0
            self._news.set()

    def _tell(self, steps: Steps, announcements: list[Announcement]) -> None:
        url = self._url or ""
        if steps.is_settled:
            self._is_clean = not announcements
            self._story.settled(url, announcements, self._board.health()[1], was_listed=bool(self._confirmed))
        else:
            now = asyncio.get_running_loop().time()
            self._story.unsettled(steps, url, now, self._timeouts.gateway_limit_s)

    def _tell_bug(self, keeping: asyncio.Task[None]) -> None:
        if not keeping.cancelled() and (error := keeping.exception()) is not None:
            self._story.bug(error)


def _is_answered(model: RouteModel) -> bool:
    """Whether a request for it is served, or held on purpose."""
    return model.state == "ready" or model.is_excused
