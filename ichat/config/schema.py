"""What can be configured: one frozen model per section. No other file holds a number of seconds."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    StringConstraints,
)

BackendName = Literal["vllm", "sglang", "fake"]
Accelerator = Literal["auto", "cpu", "cuda"]
StartMethod = Literal["auto", "fork", "spawn"]
Rollout = Literal["auto", "surge", "hold"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")]


def adapter_text(value: object) -> object:
    """An adapter as ``name=path``, of the form that vLLM takes too: a mapping of name and path, or that as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, dict):
        name, path = value.get("name"), value.get("path")
        is_all = value.keys() <= {"name", "path"} and isinstance(name, str) and isinstance(path, str)
        return f"{name}={path}" if is_all else None
    return value


Adapter = Annotated[str, BeforeValidator(adapter_text)]
#: What clients ask for: anything without blanks. vLLM's own default is the path as it was written.
ServedName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f-][^\x00-\x20\x7f]*$", max_length=256)]
#: As a browser sends it (RFC 6454), or `*`.
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/\s,]+)$")]
#: 0, or a name as NVIDIA gives it: GPU-8932f937-…, MIG-…
GpuId = (
    Annotated[int, Field(ge=0, strict=True)]
    | Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:-]*$")]
)
GpuIds = Annotated[tuple[GpuId, ...], Field(min_length=1)]
GivenGpus = Annotated[int, Field(ge=0, strict=True)] | Annotated[tuple[GpuIds, ...], Field(min_length=1)] | GpuIds


class Schema(BaseModel):
    """Frozen, strict about unknown keys; a setting never changes after ``resolve()``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())


class Timeouts(Schema):
    """Every wait in ichat, in seconds."""

    start_s: PositiveFloat = Field(1800, description="from the start of a worker until it must be ready")
    linger_s: NonNegativeFloat = Field(
        5,
        description="after SIGTERM: not ready any more, still serving, until routers have noticed; unless it is set it "
        "holds with a gateway and in Kubernetes, and is 0 elsewhere (ICHAT_LAME_DUCK)",
    )
    drain_s: PositiveFloat = Field(
        30, description="after SIGTERM, linger included: requests may finish until then (ICHAT_DRAIN_SECONDS)"
    )
    hold_s: NonNegativeFloat = Field(
        30, description="a request may wait so long for a model that loads or restarts; then 503 (0: at once)"
    )
    rollout_hold_s: NonNegativeFloat = Field(
        300, description="the same while a changed model is stopped and started again by a reload (rollout: hold)"
    )
    stop_s: PositiveFloat = Field(5, description="after the drain: the engine may leave by itself before it is killed")
    probe_every_s: PositiveFloat = Field(5, description="between two probes through the engine and back")
    probe_suspect_s: PositiveFloat = Field(3, description="an idle engine that has not answered a probe is not ready")
    probe_limit_s: PositiveFloat = Field(
        10, description="an engine that has not answered a probe, nor made progress, hangs"
    )
    busy_limit_s: PositiveFloat = Field(
        900, description="no answer and no token for so long is a hang even while the engine computes (a long prefill)"
    )
    restart_window_s: PositiveFloat = Field(600, description="the window in which restarts are counted")
    restart_backoff_s: PositiveFloat = Field(1, description="before the second restart in a window; doubles each time")
    restart_backoff_limit_s: PositiveFloat = Field(60, description="the longest wait before a restart")
    connect_s: PositiveFloat = Field(2, description="front to worker: connecting")
    first_byte_s: NonNegativeFloat = Field(
        0, description="a worker may take so long for the first byte of an answer; then 504 (0: as long as it takes)"
    )
    receive_headers_s: PositiveFloat = Field(5, description="a client may take so long to send its request's headers")
    receive_body_s: PositiveFloat = Field(10, description="and so long for the body, plus one second for each 64 KiB")
    idle_s: PositiveFloat = Field(75, description="a kept-alive connection without a request is closed")
    worker_idle_s: PositiveFloat = Field(60, description="front to worker: an unused connection is closed")
    write_stall_s: PositiveFloat = Field(60, description="a client that reads nothing for so long is cut off")
    sweep_every_s: PositiveFloat = Field(0.5, description="how often the front looks for connections out of time")
    retry_after_s: PositiveInt = Field(2, description="the Retry-After of a 503")
    watch_every_s: PositiveFloat = Field(1, description="how often the configuration file is looked at (reload.watch)")
    settle_s: NonNegativeFloat = Field(
        0.5, description="a changed configuration file is read when it has not changed since"
    )
    control_s: PositiveFloat = Field(600, description="an engine may take so long for a command of the admin port")
    gateway_every_s: PositiveFloat = Field(5, description="how often the gateway is asked whether it still knows us")
    gateway_limit_s: PositiveFloat = Field(5, description="one request to the gateway may take so long")


class Limits(Schema):
    """What one client may ask of the front."""

    url_bytes: PositiveInt = Field(8 * 1024, description="longest request target; beyond it 414")
    header_bytes: PositiveInt = Field(64 * 1024, description="all headers of a request together; beyond it 431")
    header_count: PositiveInt = Field(100, description="most headers of a request; beyond it 431")
    body_bytes: PositiveInt = Field(64 * 1024 * 1024, description="largest request body; beyond it 413")
    bodies_bytes: PositiveInt = Field(
        1024 * 1024 * 1024, description="all request bodies that are held at once; beyond it 503"
    )
    connections: PositiveInt = Field(10_000, description="most client connections; beyond it 503")


class Server(Schema):
    """The public port."""

    host: str = Field("0.0.0.0", description="address the public port listens on")  # noqa: S104  a container's port
    port: int = Field(8000, ge=0, le=65535, description="the public port; 0 takes a free one")
    api_key: SecretStr | None = Field(None, description="clients must send it as `Authorization: Bearer …`")
    api_keys: dict[str, SecretStr] = Field(  # resolved: all keys, those of api_key (`default`) and of files too
        {}, description="further keys by name: {alice: …}; requests are counted by it"
    )
    api_key_files: dict[str, str] = Field({}, description="the same from files: {bob: /run/secrets/bob}")
    cors_origins: tuple[Origin, ...] = Field(
        (), description="web pages that may use this server from a browser, by origin: https://chat.example.com; *: all"
    )
    tls_cert_file: str | None = Field(None, description="certificate chain (PEM): the public port speaks HTTPS")
    tls_key_file: str | None = Field(None, description="private key (PEM) of the certificate")
    run_dir: str | None = Field(None, description="where sockets and temporary files live; removed at the end")
    log_format: Literal["text", "json"] = Field("text", description="the form of ichat's own log lines")
    limits: Limits = Limits()


class Front(Schema):
    """The process that owns the public port."""

    processes: Annotated[int, Field(ge=1, le=64)] = Field(1, description="more than one when one core is not enough")


class Admin(Schema):
    """The admin port: it is opened only where a token is set."""

    host: str = Field("127.0.0.1", description="address the admin port listens on")
    port: int = Field(8001, ge=0, le=65535, description="the admin port; 0 takes a free one")
    token: SecretStr | None = Field(None, description="who controls ichat must send it as `Authorization: Bearer …`")


class Reload(Schema):
    """How a changed configuration file takes effect without a restart."""

    watch: bool = Field(False, description="reload when the file changes; else by `ichat reload` or SIGHUP only")


class Gateway(Schema):
    """A router in front of several containers, which ichat registers with (smg's worker API)."""

    address: str | None = Field(None, description="its URL: http://router:30000")
    advertise: str | None = Field(
        None, description="the URL under which it reaches us; default http://<our address>:<port>"
    )
    api_key: SecretStr | None = Field(None, description="the gateway's own key, sent as `Authorization: Bearer …`")


class Restarts(Schema):
    """How a worker that died is started again."""

    enabled: bool = Field(True, description="false: the container ends when its engine does")
    max_restarts: PositiveInt = Field(
        5, description="more than so many within timeouts.restart_window_s end the launcher"
    )


class Unified(Schema):
    """The arguments that mean the same on both engines. `None` leaves the engine's own default."""

    model_path: str | None = Field(None, description="a local directory or a Hugging Face repository")
    tokenizer_path: str | None = Field(None, description="a tokenizer other than the model's")
    context_length: PositiveInt | None = Field(None, description="longest prompt plus answer, in tokens")
    served_model_name: ServedName | None = Field(
        None, description="the name clients ask for; default: the model's name here"
    )
    trust_remote_code: bool | None = Field(None, description="run Python code that comes with the model")
    dtype: str | None = Field(None, description="auto, bfloat16, float16, float32")
    quantization: str | None = Field(None, description="awq, gptq, fp8 …: the engine's words")
    kv_cache_dtype: str | None = Field(None, description="auto, fp8_e5m2, fp8_e4m3 …")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    chat_template: str | None = Field(None, description="path of a Jinja chat template")
    tool_call_parser: str | None = Field(None, description="how the model writes tool calls: the engine's words")
    reasoning_parser: str | None = Field(None, description="how the model writes its reasoning: the engine's words")
    tensor_parallel_size: PositiveInt | None = Field(None, description="GPUs that share one copy of the weights")
    pipeline_parallel_size: PositiveInt | None = Field(None, description="stages that the layers are split into")
    data_parallel_size: PositiveInt | None = Field(None, description="copies of the model inside one engine")
    max_running_requests: PositiveInt | None = Field(None, description="requests that are computed at once")
    memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of the device's memory; what it covers differs, `ichat explain` says how"
    )
    seed: int | None = Field(None, description="of the engine's random numbers")
    load_format: str | None = Field(None, description="auto, safetensors, dummy …")
    download_dir: str | None = Field(None, description="where hub models are kept")
    enable_prefix_caching: bool | None = Field(None, description="reuse the KV cache of equal prefixes")
    log_level: LogLevel | None = Field(None, description="how much the engine and its HTTP server log")
    nnodes: PositiveInt | None = Field(None, description="machines that serve this instance together")
    node_rank: Annotated[int, Field(ge=0)] | None = Field(
        None, description="which of them this one is: only 0, the first, is served"
    )
    dist_init_addr: str | None = Field(None, description="host:port of node 0 for the engines' own rendezvous")
    kv_events_config: dict[str, Any] | None = Field(
        None, description="publish KV cache events: {publisher: zmq, endpoint: …}, the same keys on both engines"
    )
    enable_lora: bool | None = Field(None, description="serve LoRA adapters")
    lora_paths: tuple[Adapter, ...] | None = Field(None, description="adapters to load, each name=path")
    max_loras: PositiveInt | None = Field(None, description="adapters in one batch")
    max_lora_rank: PositiveInt | None = Field(None, description="largest rank of an adapter")


class ModelSettings(Unified):
    """One model as written under `models:` (and `defaults:`, which has the same keys)."""

    backend: BackendName | None = Field(None, description="vllm or sglang; default vllm")
    aliases: tuple[ServedName, ...] = Field((), description="further names that clients may ask for")
    instances: PositiveInt = Field(1, description="workers of this model")
    gpus: GivenGpus | None = Field(
        None, description="of each instance: how many (1), or which: [[0], [1]], one list an instance"
    )
    limit_concurrent: PositiveInt | None = Field(
        None, description="requests of this model in flight; more of them wait"
    )
    limit_queued: NonNegativeInt = Field(256, description="requests that may wait for this model; beyond it 503")
    limit_body_bytes: PositiveInt | None = Field(None, description="largest body for this model; beyond it 413")
    limit_n: PositiveInt | None = Field(None, description="largest `n` (and `best_of`) of a request; beyond it 400")
    limit_max_tokens: PositiveInt | None = Field(None, description="largest `max_tokens` of a request; beyond it 400")
    limit_schema_bytes: PositiveInt | None = Field(
        65536, description="largest JSON Schema, tool or grammar in a request; beyond it 400; null: nothing is checked"
    )
    start_s: PositiveFloat | None = Field(None, description="instead of timeouts.start_s")
    drain_s: PositiveFloat | None = Field(
        None, description="instead of timeouts.drain_s, where an instance is replaced"
    )
    hold_s: NonNegativeFloat | None = Field(None, description="instead of timeouts.hold_s")
    rollout: Rollout = Field(
        "auto", description="how a reload replaces an instance: surge (beside the old one), hold (after it), auto"
    )
    engine_args: dict[str, Any] = Field(
        {}, description="any flag of the model's engine, in its own words: {enforce-eager: true}"
    )
    vllm_args: dict[str, Any] = Field({}, description="the same, used only when the backend is vllm")
    sglang_args: dict[str, Any] = Field({}, description="the same, used only when the backend is sglang")
    extra_argv: tuple[str, ...] = Field((), description="more of the engine's own command line, verbatim")
    env: dict[str, str] = Field({}, description="environment variables of the worker")
    accelerator: Accelerator = Field("auto", description="auto: cuda when an NVIDIA device is visible, else cpu")
    start_method: StartMethod = Field(
        "auto", description="how the engine starts its processes: fork is quick, spawn is the engine's own way"
    )


class Model(ModelSettings):
    """One model, resolved: it has a name, a backend and a path.

    ``gpus`` is the number of each instance, or the ids of each, one tuple an instance; None leaves it to the launcher.
    """

    name: ModelName
    backend: BackendName = "vllm"
    model_path: str
    gpus: int | tuple[tuple[str, ...], ...] | None = None

    @property
    def served_name(self) -> str:
        return self.served_model_name or self.name

    @property
    def served_names(self) -> tuple[str, ...]:
        """Every name that a request may ask for, the first one first, those of adapters last."""
        names = (self.served_name, *self.aliases)
        return (*names, *(name for adapter in self.adapters for name in self.names_of(adapter)))

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(text.partition("=")[0] for text in self.lora_paths or ())

    def names_of(self, adapter: str) -> tuple[str, ...]:
        """What a request asks for that wants an adapter: its name, for SGLang `model:adapter`."""
        if self.backend != "sglang":
            return (adapter,)
        return tuple(f"{name}:{adapter}" for name in (self.served_name, *self.aliases))

    def timeouts(self, common: Timeouts) -> Timeouts:
        """Those that hold for this model."""
        own = {name: getattr(self, name) for name in ("start_s", "drain_s", "hold_s")}
        return common.model_copy(update={name: value for name, value in own.items() if value is not None})


class Settings(Schema):
    """All that the launcher needs to know, checked."""

    server: Server = Server()
    front: Front = Front()
    admin: Admin = Admin()
    reload: Reload = Reload()
    gateway: Gateway = Gateway()
    timeouts: Timeouts = Timeouts()
    restarts: Restarts = Restarts()
    models: tuple[Model, ...]
