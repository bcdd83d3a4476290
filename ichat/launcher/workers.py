"""Starts worker processes: their directory, their environment, their channel, and all that must go with them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from ichat.config.schema import Model, Settings
from ichat.errors import TemporaryError
from ichat.ipc import channel, messages
from ichat.ipc.channel import Channel
from ichat.ipc.messages import Message
from ichat.launcher import environment, socket_probe
from ichat.launcher.aside import Aside
from ichat.launcher.instance import InstanceSpec
from ichat.launcher.memory_limit import MemoryLimit
from ichat.launcher.output import Output
from ichat.launcher.process import Child, Exit, Processes
from ichat.launcher.residue import unlink_shared_memory
from ichat.launcher.run_dir import RunDir
from ichat.launcher.socket_probe import Outcome

log = logging.getLogger(__name__)

#: Removing some files takes no time, unless their file system hangs.
_REMOVAL_S = 5.0


@dataclass
class Ground:
    """What every child of the launcher is started on. A reload replaces the settings, for those that start later."""

    processes: Processes
    run_dir: RunDir
    output: Output
    settings: Settings
    inherited: Mapping[str, str]  # the launcher's own environment
    removals: Aside = field(default_factory=lambda: Aside("removing a worker's files"))

    def take(self, settings: Settings) -> None:
        self.settings = settings


class Worker:
    """One worker process, from its start to its burial (see ``life.WorkerProcess``)."""

    def __init__(self, ground: Ground, spec: InstanceSpec) -> None:
        self.incarnation = uuid.uuid4().hex
        self._ground, self._instance, self._spec = ground, spec.name, spec
        self._folder = ground.run_dir.new_worker()
        self.socket_path = str(self._folder / "http.sock")
        self._limit = MemoryLimit()
        self._kills_before = self._limit.kills()
        self._shm: list[str] = []
        self._to_send: list[Message] = [self._start_message(spec.model)]
        self._channel: Channel | None = None
        self._ours, theirs = channel.pair()
        try:
            with theirs:
                self._child = self._spawn(spec.model, theirs.fileno())
        except BaseException:
            self._ours.close()
            ground.run_dir.remove_worker(self._folder)
            raise
        self.pid, self.ended = self._child.pid, self._child.ended
        ground.run_dir.residue.started(self.pid)

    def _spawn(self, model: Model, control_fd: int) -> Child:
        argv = [environment.python_of(model), "-P", "-m", "ichat.worker", "--control-fd", str(control_fd)]
        env = environment.for_worker(self._ground.inherited, model, str(self._folder / "tmp"), self._spec.gpus)
        with self._ground.output.open(self._instance) as output:
            return self._ground.processes.spawn(
                self._instance, argv, env=env, pass_fds=[control_fd], output_fd=output.fileno()
            )

    def _start_message(self, model: Model) -> messages.StartWorker:
        settings = self._ground.settings
        return messages.StartWorker(
            instance=self._instance,
            incarnation=self.incarnation,
            model=model.model_dump(mode="json"),
            timeouts=model.timeouts(settings.timeouts).model_dump(mode="json"),
            socket_path=self.socket_path,
            tmp_dir=str(self._folder / "tmp"),
            accelerator=environment.accelerator_of(model),
            log_format=settings.server.log_format,
        )

    async def receive(self) -> Message | None:
        if self._channel is None:
            self._channel = await Channel.open(self._ours)
            for message in self._to_send:
                self._channel.send(message)
        return await self._channel.receive()

    def send(self, message: Message) -> None:
        if self._channel is None:
            self._to_send.append(message)
        else:
            self._channel.send(message)

    async def ask(self) -> Outcome:
        return await socket_probe.ask(self.socket_path)

    def terminate(self) -> None:
        self._child.terminate()

    def remember(self, shm: list[str]) -> None:
        self._shm = shm
        self._ground.run_dir.holds(self.incarnation, shm)

    async def bury(self) -> None:
        survivors = await self._ground.processes.kill_everything(self._child)
        if survivors:
            log.error("%s: processes that SIGKILL does not end pids=%s", self._instance, survivors)
        if self._channel is None:
            self._ours.close()
        else:
            self._channel.close()
        unlink_shared_memory(self._shm)
        await self._remove_folder()
        self._ground.run_dir.residue.ended(self.pid)
        self._ground.run_dir.holds(self.incarnation, [])

    async def _remove_folder(self) -> None:
        """What cannot be removed now goes with the run directory: the next start does not wait for it."""
        try:
            async with asyncio.timeout(_REMOVAL_S):
                await self._ground.removals.run(lambda: self._ground.run_dir.remove_worker(self._folder))
        except (OSError, TemporaryError) as error:  # a TimeoutError is an OSError
            words = str(error) or f"not done within {_REMOVAL_S:.0f} s"
            log.warning("%s: %s is left for later (%s)", self._instance, self._folder, words)

    def explain(self, ended: Exit | None) -> str:
        words = "" if ended is None else ended.words
        hint = self._limit.hint(self._kills_before)
        if ended is None or ended.signal is None:
            return f"{words} ({hint.strip()})" if hint else words
        return f"{words}{hint}; its memory was {ended.peak_rss_bytes / 2**30:.1f} GiB at most"
