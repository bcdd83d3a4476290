"""SGLang in process: the only file that imports sglang, with sglang_compat.py. Its twin is vllm_backend.py.

The sequence is the one of SGLang's own ``srt/entrypoints/http_server.py``, without its signal handlers:
parse → Engine._launch_subprocesses → set_global_state → app → uvicorn. The app is a module global: one process
holds one engine.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
import uuid
from collections.abc import Hashable, Sequence
from typing import Any, NoReturn

from ichat.backends import sglang_compat, sglang_requests, start_method
from ichat.backends.base_backend import BaseBackend
from ichat.backends.engine_control import EngineControl
from ichat.backends.failures import refuse_arguments
from ichat.backends.http_server import HTTPServer
from ichat.backends.model_files import architectures_of
from ichat.backends.owner_thread import OwnerThread
from ichat.backends.request_checks.middleware import RequestChecks
from ichat.backends.sglang_control import SGLangControl
from ichat.backends.warm_up import check_numbers, request_once
from ichat.errors import EngineError

# The front keeps its connections to us open for less than this.
_KEEP_ALIVE_S = 600
_POLL_S = 0.02
_ONE_TOKEN: dict[str, Any] = {
    "text": "Hi", "sampling_params": {"temperature": 0, "max_new_tokens": 1}, "return_logprob": True
}  # fmt: skip

#: Modes that need SGLang's own process layout or listeners of their own: (name, the value that we serve).
_SERVED_MODES: tuple[tuple[str, Any], ...] = (
    ("encoder_only", False),
    ("smg_grpc_mode", False),
    ("use_ray", False),
    ("enable_http2", False),
    ("tokenizer_worker_num", 1),
    ("skip_server_warmup", False),  # ready means: a token came out
    ("node_rank", 0),
)


class SGLangBackend(BaseBackend):
    """SGLang's own parser, engine, app and routes."""

    vital_processes = re.compile(r"^sglang::")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owner = OwnerThread("sglang-owner")
        self._args: Any = None  # sglang.srt.server_args.ServerArgs
        self._ranks, self._piece_tokens = range(1), 0
        self._tokenizer_manager: Any = None
        self._commands: SGLangControl | None = None
        self._template_manager: Any = None
        self._scheduler_info: dict[str, Any] = {}
        self._probe_prefix = ""
        self._loads: Any = None  # sglang.srt.managers.load_snapshot.ShmLoadSnapshotReader
        self._answers = _Answers()

    def get_backend_args(self) -> Any:
        if self._args is None:
            raise RuntimeError("SGLang's arguments are not parsed yet")
        return self._args

    def tasks(self) -> list[str]:
        return ["generate"] if self._tokenizer_manager.is_generation else ["embed"]

    def engine_control(self) -> EngineControl:
        if self._commands is None:
            raise RuntimeError("SGLang has not been started yet")
        return self._commands

    # ---- parse --------------------------------------------------------------------------------------------

    async def parse(self) -> None:
        sglang_compat.SUPPORTED.check_installed(self.framework_args.instance)
        await self._owner.call(self._import)
        self.news.phase("arguments")
        await self._owner.call(self._parse)

    def _import(self) -> None:
        with start_method.quiet_collector():
            import sglang.srt.entrypoints.engine
            import sglang.srt.entrypoints.http_server

            if self.framework_args.start_method == "fork":
                # What the scheduler and the detokenizer need, imported once for all of them.
                import sglang.srt.managers.detokenizer_manager
                import sglang.srt.managers.scheduler

                if self.framework_args.accelerator == "cpu":
                    import sglang.srt.layers.attention.torch_native_backend
                    import sglang.srt.models.transformers  # noqa: F401

    def _parse(self) -> None:
        from sglang.srt.arg_groups.overrides import resolving_view
        from sglang.srt.plugins import load_plugins
        from sglang.srt.server_args import ServerArgs, prepare_server_args

        class Parser(argparse.ArgumentParser):
            def error(self, message: str) -> NoReturn:
                refuse_arguments("SGLang", message)

        load_plugins()
        # SGLang's own parser ends the process when it refuses something: ours, with the same arguments, says why.
        checker = Parser(prog="sglang serve", add_help=False)
        ServerArgs.add_cli_args(checker)
        checker.parse_args(self.backend_argv)
        try:
            args = prepare_server_args(self.backend_argv)
            args.resolve_once()
        except (AssertionError, TypeError, ValueError) as error:
            refuse_arguments("SGLang", str(error))
        resolved = resolving_view(args)
        for name, served in _SERVED_MODES:
            if getattr(resolved, name) != served:
                flag = f"--{name.replace('_', '-')}"
                refuse_arguments("SGLang", f"{flag} {getattr(resolved, name)} is not served in process. Leave it out")
        if self.framework_args.accelerator == "cpu":
            wrong = sglang_compat.refusal_on_the_cpu(architectures_of(args.model_path), resolved)
            if wrong is not None:
                refuse_arguments("SGLang", wrong)
        self._args = args

    # ---- engine -------------------------------------------------------------------------------------------

    async def start_engine(self) -> None:
        await self._owner.call(self._load)
        from sglang.srt.arg_groups.overrides import resolving_view
        from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX
        from sglang.srt.managers import io_struct

        self._probe_prefix = HEALTH_CHECK_RID_PREFIX
        self._loads = sglang_compat.open_loads(self._tokenizer_manager.load_snapshot_reader)
        resolved = resolving_view(self._args)
        self._ranks, self._piece_tokens = range(resolved.dp_size), resolved.chunked_prefill_size or 0
        self._commands = SGLangControl(
            self._tokenizer_manager,
            io_struct,
            resolved,
            self.framework_args.accelerator,
            self.in_flight,
        )
        # At the first request SGLang takes SIGTERM and SIGQUIT of the loop over; this is its seam to give them back.
        self._tokenizer_manager.signal_handler_class = _signal_handlers(self)

    def _load(self) -> None:
        from sglang.srt.entrypoints.engine import (
            Engine,
            init_tokenizer_manager,
            run_detokenizer_process,
            run_scheduler_process,
        )

        engine: Any = _forking(Engine) if self.framework_args.start_method == "fork" else Engine
        launched = engine._launch_subprocesses(
            server_args=self._args,
            init_tokenizer_manager_func=init_tokenizer_manager,
            run_scheduler_process_func=run_scheduler_process,
            run_detokenizer_process_func=run_detokenizer_process,
        )
        self._tokenizer_manager, self._template_manager, scheduled, watchdog = sglang_compat.launched_parts(launched)
        self._scheduler_info = scheduled.scheduler_infos[0]
        if watchdog is not None:
            watchdog.stop()  # it polls, and sends SIGQUIT to this process; our pidfds are faster

    # ---- server -------------------------------------------------------------------------------------------

    async def start_server(self) -> HTTPServer:
        import uvicorn
        from sglang.srt.entrypoints import http_server
        from sglang.srt.runtime_context import get_observability, get_serving
        from sglang.srt.utils import set_uvicorn_logging_configs
        from sglang.srt.utils.auth import add_api_key_middleware, app_has_admin_force_endpoints

        app, serving, observability = http_server.app, get_serving(), get_observability()
        http_server.set_global_state(
            http_server._GlobalState(
                tokenizer_manager=self._tokenizer_manager,
                template_manager=self._template_manager,
                scheduler_info=self._scheduler_info,
            )
        )
        if observability.enable_metrics:
            sglang_compat.count_responses(app)
        app.is_single_tokenizer_mode, app.server_args = True, self._args
        # SGLang's warm-up thread would send its requests to a TCP port that is not ours, and kill the process when
        # one fails. Told that the warm-up did not succeed it ends at once; warm_up() does the work.
        app.warmup_thread_kwargs = {"server_args": self._args, "execute_warmup_func": lambda _args: False}
        if serving.api_key or serving.admin_api_key or app_has_admin_force_endpoints(app):
            add_api_key_middleware(app, api_key=serving.api_key, admin_api_key=serving.admin_api_key)
        set_uvicorn_logging_configs(self._args)
        config = uvicorn.Config(
            self._checked(app),
            root_path=serving.fastapi_root_path or "",
            log_level=observability.log_level_http or observability.log_level,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        server = HTTPServer(config, self.framework_args.socket_path, self.fail)
        await server.start()
        return server

    def _checked(self, app: Any) -> RequestChecks:
        from sglang.srt.arg_groups.overrides import resolving_view

        resolved = resolving_view(self._args)
        facts = sglang_requests.read_facts(self._tokenizer_manager, resolved, self.framework_args.model.limit_n)
        return RequestChecks(app, sglang_requests.build_table(facts, resolved), sglang_requests.SGLangMistakes())

    async def warm_up(self) -> None:
        from sglang.srt.entrypoints.http_server import ServerStatus

        await self.check_answer()
        self._tokenizer_manager.server_status = ServerStatus.Up
        await self._tokenizer_manager.freeze_gc()  # SGLang does this itself after its own warm-up

    async def check_answer(self) -> None:
        """Logprobs cost it nothing, so that each warm-up looks at them."""
        if self._tokenizer_manager.is_generation:
            path, body = "/generate", _ONE_TOKEN
        else:
            path, body = "/encode", {"text": "Hi"}
        answer = await request_once(self.framework_args.socket_path, path, body, self.framework_args.api_key)
        if "text" in answer:
            check_numbers(path, [number for number, *_ in answer["meta_info"]["output_token_logprobs"]])
        elif "embedding" in answer:
            check_numbers(path, answer["embedding"])
        else:
            raise EngineError(f"the warm-up request to {path} brought nothing: {answer}", code="E-ENG-WARM-UP")

    # ---- life ---------------------------------------------------------------------------------------------

    def ranks(self) -> Sequence[int]:
        return self._ranks

    async def probe(self, rank: int) -> None:
        """What SGLang's ``/health`` does, without its steps of a second: a token through scheduler and detokenizer."""
        from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput

        manager = self._tokenizer_manager
        if manager.is_pause:  # a request would wait for the end of the pause; the processes are watched anyway
            return
        rid, asked_at = f"{self._probe_prefix}_{uuid.uuid4().hex}", time.time()
        kind = GenerateReqInput if manager.is_generation else EmbeddingReqInput
        request = kind(
            rid=rid, input_ids=[0], sampling_params={"max_new_tokens": 1, "temperature": 0.0}, log_metrics=False
        )
        is_alone = len(self.ranks()) == 1
        if not is_alone:
            request.routed_dp_rank = rank
        task = asyncio.create_task(_first_answer(manager.generate_request(request, None)), name="probe-request")
        try:
            # A busy scheduler ignores such a request: any output, of any request, is the answer, if it is the only
            # one; of several ranks ``steps`` tells.
            while not is_alone or manager.last_receive_tstamp <= asked_at:
                if task.done():
                    await task
                    return
                if manager.is_pause:
                    return
                await asyncio.sleep(_POLL_S)
        finally:
            task.cancel()
            manager.rid_to_state.pop(rid, None)

    def steps(self, rank: int) -> float:
        if len(self.ranks()) == 1:
            return float(self._tokenizer_manager.last_receive_tstamp)
        load = sglang_compat.load_of(self._loads, rank)
        # The loop of an idle scheduler turns without the detokenizer: there only the answer counts.
        return load.timestamp if load is not None and load.num_running_reqs + load.num_waiting_reqs > 0 else 0.0

    def progress(self) -> Hashable:
        """An answer that grew or ended, or a piece of a long prompt: that is told after each of them."""
        loads = [sglang_compat.load_of(self._loads, rank) for rank in self.ranks()]
        pieces = sum(load.timestamp for load in loads if load is not None and load.num_waiting_uncached_tokens > 0)
        return self._answers.count(self._tokenizer_manager.rid_to_state), pieces

    def tokens(self) -> int:
        loads = [sglang_compat.load_of(self._loads, rank) for rank in self.ranks()]
        return sum(load.total_prefill_uncached_tokens + _decoded(load) for load in loads if load is not None)

    def owed_tokens(self) -> int:
        states = self._tokenizer_manager.rid_to_state.values()
        owed = sum(_prompt_length(state.obj) for state in states if not state.output_ids)
        return min(owed, self._piece_tokens) if self._piece_tokens > 0 else owed

    def in_flight(self) -> int:
        requests = () if self._tokenizer_manager is None else self._tokenizer_manager.rid_to_state
        return sum(not rid.startswith(self._probe_prefix) for rid in requests)

    async def stop_engine(self) -> None:
        from sglang.srt.managers.io_struct import ShutdownReq

        # The schedulers leave by themselves and free what they hold; the detokenizer knows no such message.
        self._tokenizer_manager._dispatch_to_scheduler(ShutdownReq())
        while any("scheduler" in words for words in self.processes.vital):
            await asyncio.sleep(_POLL_S)


class _Answers:
    """Counts how often the answers in flight got further between two looks."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, int]] = {}
        self._count = 0

    def count(self, states: dict[str, Any]) -> int:
        now = {rid: (state, len(state.output_ids)) for rid, state in states.items()}
        has_ended = any(state.finished for rid, (state, _) in self._seen.items() if rid not in now)
        has_grown = any(length > self._seen.get(rid, (None, 0))[1] for rid, (_, length) in now.items())
        self._count += has_ended or has_grown
        self._seen = now
        return self._count


def _decoded(load: Any) -> int:
    """Tokens of answers: the second of SGLang's moments is the sum of the sizes of all batches."""
    return int(load.decode_moments[1]) if load.decode_moments else 0


def _prompt_length(request: Any) -> int:
    """In tokens, or in characters where SGLang does not keep the tokens: there are not more tokens than that."""
    return len(request.input_ids or request.text or ())


async def _first_answer(stream: Any) -> None:
    async for _ in stream:
        break


def _forking(engine: Any) -> Any:
    import multiprocessing

    class ForkingEngine(engine):  # type: ignore[misc]
        """SGLang forces "spawn" just before it calls this documented override point."""

        @classmethod
        def _launch_scheduler_processes(cls, *args: Any, **kwargs: Any) -> Any:
            multiprocessing.set_start_method("fork", force=True)
            return super()._launch_scheduler_processes(*args, **kwargs)

    return ForkingEngine


def _signal_handlers(backend: SGLangBackend) -> type:
    class Handlers:
        """The interface of ``TokenizerManager.signal_handler_class``."""

        def __init__(self, tokenizer_manager: Any) -> None:
            del tokenizer_manager

        def sigterm_handler(self, signum: int | None = None, frame: Any = None) -> None:
            del signum, frame
            backend.request_stop()

        def running_phase_sigquit_handler(self, signum: int | None = None, frame: Any = None) -> None:
            del signum, frame
            backend.fail("a process of the engine reported a failure (SIGQUIT); its last lines are above")

    return Handlers
