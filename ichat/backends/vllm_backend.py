"""vLLM in process: the only file that imports vllm, with vllm_compat.py. Its twin is sglang_backend.py.

The sequence is the one of vLLM's own ``entrypoints/launchers/api_server/entry.py``, without its signal handlers:
parse → configure → AsyncLLM → build_app → init_app_state → uvicorn.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from argparse import Namespace
from collections.abc import Hashable, Sequence
from typing import Any, NoReturn

from ichat.backends import start_method, vllm_compat, vllm_requests
from ichat.backends.base_backend import BaseBackend
from ichat.backends.engine_control import EngineControl
from ichat.backends.failures import refuse_arguments
from ichat.backends.http_server import HTTPServer
from ichat.backends.model_files import architectures_of
from ichat.backends.owner_thread import OwnerThread
from ichat.backends.request_checks.middleware import RequestChecks
from ichat.backends.vllm_control import VLLMControl
from ichat.backends.warm_up import check_numbers, request_once
from ichat.errors import EngineError

# The front keeps its connections to us open for less than this.
_KEEP_ALIVE_S = 600
_WORKERS_EVERY_S = 30.0
_ONE_TOKEN: dict[str, Any] = {"prompt": "Hi", "max_tokens": 1, "temperature": 0}


class VLLMBackend(BaseBackend):
    """vLLM's own parser, engine client, app and routes."""

    vital_processes = re.compile(r"^VLLM::")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owner = OwnerThread("vllm-owner")
        self._args: Namespace | None = None
        self._engine: Any = None  # vllm.v1.engine.async_llm.AsyncLLM
        self._socket: Any = None
        self._commands: VLLMControl | None = None
        self._tasks: tuple[str, ...] = ()
        self._counters: dict[int, vllm_compat.StepCounter] = {}  # by rank; empty when vLLM is to keep no statistics
        self._workers_asked_at: dict[int, float] = {}

    def get_backend_args(self) -> Namespace:
        if self._args is None:
            raise RuntimeError("vLLM's arguments are not parsed yet")
        return self._args

    def tasks(self) -> list[str]:
        return list(self._tasks)

    def engine_control(self) -> EngineControl:
        if self._commands is None:
            raise RuntimeError("vLLM has not been started yet")
        return self._commands

    # ---- parse --------------------------------------------------------------------------------------------

    async def parse(self) -> None:
        vllm_compat.SUPPORTED.check_installed(self.framework_args.instance)
        await self._owner.call(self._import)
        self.news.phase("arguments")
        await self._owner.call(self._parse)

    def _import(self) -> None:
        with start_method.quiet_collector():
            import vllm.entrypoints.launchers.api_server.app_state
            import vllm.entrypoints.launchers.app
            import vllm.entrypoints.launchers.launcher
            import vllm.v1.engine.async_llm

            if self.framework_args.start_method == "fork":
                # What EngineCore and its workers need, imported once for all of them.
                import vllm.v1.engine.core
                import vllm.v1.executor.multiproc_executor

                if self.framework_args.accelerator == "cpu":
                    import vllm.v1.worker.cpu_worker  # noqa: F401

    def _parse(self) -> None:
        from vllm.entrypoints.launchers.launcher import setup_server
        from vllm.logger import configure_logging_from_args
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        class Parser(FlexibleArgumentParser):  # type: ignore[misc]
            def error(self, message: str) -> NoReturn:
                refuse_arguments("vLLM", message)

        command_line = vllm_compat.command_line()
        command_line.set_up_environment()
        args = command_line.make_parser(Parser(prog="vllm serve")).parse_args(self.backend_argv)
        if args.model_tag is not None:
            args.model = args.model_tag
        self._check_mode(args)
        args.api_server_count = None
        args.uds = self.framework_args.socket_path
        configure_logging_from_args(args)
        try:
            command_line.validate(args)
            _, self._socket = setup_server(args, reuse_port=False)
        except (KeyError, TypeError, ValueError) as error:
            refuse_arguments("vLLM", str(error))
        self._args = args

    @staticmethod
    def _check_mode(args: Namespace) -> None:
        if (args.api_server_count or 1) != 1:
            refuse_arguments("vLLM", f"--api-server-count {args.api_server_count}: one API server serves an instance")
        for flag in ("grpc", "headless"):
            if getattr(args, flag, False):
                refuse_arguments("vLLM", f"--{flag} is not served in process. Leave it out")

    # ---- engine -------------------------------------------------------------------------------------------

    async def start_engine(self) -> None:
        self._engine = await self._owner.call(self._load)
        await self._engine.reset_mm_cache()
        self._tasks = tuple(await self._engine.get_supported_tasks())

    def _load(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        args = self.get_backend_args()
        if self.framework_args.start_method == "fork":
            _inspect_here(args.model)
        engine_args = AsyncEngineArgs.from_cli_args(args)
        vllm_compat.command_line().propagate_flash_late_interaction(args, engine_args)
        config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        if self.framework_args.start_method == "fork":
            # The CPU platform sets "spawn" inside create_engine_config(); vLLM reads it again when it starts a process.
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"  # noqa: TID251
        # It blocks until the model is loaded. Its sockets bind to our loop only when they are first used there.
        return AsyncLLM.from_vllm_config(
            vllm_config=config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            enable_log_requests=engine_args.enable_log_requests,
            aggregate_engine_logging=engine_args.aggregate_engine_logging,
            disable_log_stats=engine_args.disable_log_stats,
            stat_loggers=[] if engine_args.disable_log_stats else [self._count_steps],
        )

    def _count_steps(self, config: Any, rank: int = 0) -> Any:
        """vLLM calls it for each data-parallel copy, and tells the counter of each step."""
        del config
        counter = self._counters[rank] = vllm_compat.StepCounter()
        return counter

    # ---- server -------------------------------------------------------------------------------------------

    async def start_server(self) -> HTTPServer:
        import uvicorn
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
        from vllm.entrypoints.serve.lora import protocol

        args = self.get_backend_args()
        app = build_app(args, self._tasks, self._engine.model_config)
        await init_app_state(self._engine, app.state, args, self._tasks)
        log_config = get_uvicorn_log_config(args)
        config = uvicorn.Config(
            self._checked(app),
            log_level=args.uvicorn_log_level,
            access_log=not args.disable_uvicorn_access_log,
            timeout_keep_alive=_KEEP_ALIVE_S,
            **({} if log_config is None else {"log_config": log_config}),
        )
        config.h11_max_incomplete_event_size = args.h11_max_incomplete_event_size
        config.h11_max_header_count = args.h11_max_header_count  # type: ignore[attr-defined]
        server = HTTPServer(config, self.framework_args.socket_path, self.fail)
        self._commands = VLLMControl(
            self._engine, app.state.openai_serving_models, protocol, self.framework_args.accelerator
        )
        # vLLM's exception handlers end the server they find here when the engine is dead.
        app.state.server = server.server
        await server.start([self._socket])
        return server

    def _checked(self, app: Any) -> RequestChecks:
        engine = self._engine
        facts = vllm_requests.read_facts(engine, self.framework_args.model.limit_n)
        has_connector = engine.vllm_config.kv_transfer_config is not None
        mistakes = vllm_requests.VLLMMistakes(lambda: engine.errored, has_connector)
        return RequestChecks(app, vllm_requests.build_table(facts), mistakes)

    async def warm_up(self) -> None:
        model = self.framework_args.model.served_name
        if "generate" in self._tasks:
            path = "/v1/completions"
            body = _ONE_TOKEN | {"model": model}
        elif "embed" in self._tasks:
            path, body = "/v1/embeddings", {"model": model, "input": "Hi"}
        else:
            path, body = "/pooling", {"model": model, "input": "Hi"}
        answer = await self._ask(path, body)
        if not (answer.get("choices") or answer.get("data")):
            raise EngineError(f"the warm-up request to {path} brought nothing: {answer}", code="E-ENG-WARM-UP")
        if "data" in answer:
            check_numbers(path, [vector.get("embedding", vector.get("data")) for vector in answer["data"]])

    async def check_answer(self) -> None:
        """At a start it would cost the compilation that vLLM keeps for the first request for logprobs."""
        if "generate" not in self._tasks:
            await self.warm_up()
            return
        model, path = self.framework_args.model.served_name, "/v1/completions"
        try:
            answer = await self._ask(path, _ONE_TOKEN | {"model": model, "logprobs": 0})
        except EngineError as error:
            if vllm_compat.NO_NUMBERS in str(error):
                check_numbers(path, None)
            raise
        check_numbers(path, [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]])

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await request_once(self.framework_args.socket_path, path, body, self.framework_args.api_key)

    # ---- life ---------------------------------------------------------------------------------------------

    def ranks(self) -> Sequence[int]:
        return sorted(self._counters) or (0,)

    async def probe(self, rank: int) -> None:
        """Through EngineCore and each of its workers; an idle worker is asked less often.

        For a second after each question vLLM's workers wait for the next one without leaving their core.
        """
        engine, ranks = self._engine, self.ranks()
        await engine.check_health()  # a local flag: the engine's death, as far as this process knows
        asked_s = time.monotonic() - self._workers_asked_at.get(rank, -math.inf)
        is_due = engine.get_num_unfinished_requests() > 0 or asked_s >= _WORKERS_EVERY_S
        if len(ranks) > 1:
            await vllm_compat.ask_rank(engine, ranks.index(rank), with_workers=is_due)
        elif not await engine.is_sleeping() and is_due:  # to EngineCore's busy loop and back
            await engine.collective_rpc("check_health")  # and on to each worker process
        if is_due:
            self._workers_asked_at[rank] = time.monotonic()

    def in_flight(self) -> int:
        return int(self._engine.get_num_unfinished_requests()) if self._engine is not None else 0

    def steps(self, rank: int) -> float:
        return float(self._counters[rank].steps) if self._counters else 0.0

    def progress(self) -> Hashable:
        return sum(counter.steps for counter in self._counters.values()) if self._counters else None

    def tokens(self) -> int:
        return sum(int(counter.tokens) for counter in self._counters.values())

    def owed_tokens(self) -> int:
        states = self._engine.output_processor.request_states.values()
        owed: int = sum(state.prompt_len for state in states if state.is_prefilling)
        in_one_step: int = self._engine.vllm_config.scheduler_config.max_num_batched_tokens
        return min(owed, in_one_step)

    async def stop_engine(self) -> None:
        # It would take the engine's leaving for its death, and tell that as an error with a traceback.
        if (handler := self._engine.output_handler) is not None:
            handler.cancel()
        # Without a limit vLLM kills its processes at once: the kernel and cleanup() free all that they hold.
        limit_s = self.timeouts.stop_s if _must_take_leave(self._engine.vllm_config) else 0.0
        await asyncio.to_thread(self._engine.shutdown, limit_s)


def _must_take_leave(config: Any) -> bool:
    """Whether somebody outside of the engine's processes would miss something if they were killed while idle.

    Caches that other machines or disks share, publishers, traces and profiles have something to finish. The rest of
    vLLM's own teardown (0.32) is garbage collection in each process: 1 to 4 s, and over 5 s on a busy machine.
    """
    partners = ("kv_transfer_config", "ec_transfer_config", "kv_events_config", "weight_transfer_config")
    observability, profiler = config.observability_config, config.profiler_config
    return (
        any(getattr(config, name, None) is not None for name in partners)
        or getattr(observability, "otlp_traces_endpoint", None) is not None
        or getattr(profiler, "profiler", None) is not None
    )


def _inspect_here(model_path: str) -> None:
    """Import the class of a local model in this process.

    vLLM asks an unseen class for its abilities in a process of its own, which imports vLLM once more (8 s at the
    first start of each architecture), so that the import cannot initialise CUDA here. A forked worker needs the
    class anyway, and where we fork there is no CUDA.
    """
    from vllm import ModelRegistry

    for architecture in architectures_of(model_path):
        known = ModelRegistry.models.get(architecture)
        if known is not None:
            ModelRegistry.register_model(architecture, known.load_model_cls())
