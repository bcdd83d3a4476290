"""Who is compared with our front: what each needs, how it is started, what it is called in the tables.

Each gets one core and every worker at the best place that it can reach (a unix socket where it can), writes no line
for each request, keeps its connections to the workers, and passes events on at once.
"""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import free_port
from benchmarks.front.scripted_worker import MODEL, Places
from benchmarks.machine import ROOT

PEERS = ROOT / ".venvs" / "peers"
_NGINX_MODULES = Path("/usr/lib/nginx/modules")
_LUA_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
_FROM_DEBIAN = "apt-get install {}, and stop the service if the package started one"
_FROM_REGISTRY = "scripts/setup peers"


@dataclass(frozen=True)
class Gateway:
    """``version`` is None where it is not installed; ``install`` says how to get it.

    ``to_argv`` is given a folder of the gateway's own, the port that it is to listen on, and the workers.
    """

    name: str
    install: str
    version: Callable[[], str | None]
    to_argv: Callable[[Path, int, Places], list[str]]
    is_floor: bool = False


# ---- the floor ----------------------------------------------------------------------------------------------------


def _splice_tcp(folder: Path, port: int, workers: Places) -> list[str]:
    del folder
    return [*_SPLICE, f"--port={port}", f"--worker-port={workers.ports[0]}"]


def _splice_unix(folder: Path, port: int, workers: Places) -> list[str]:
    del folder
    return [*_SPLICE, f"--port={port}", f"--worker-socket={workers.sockets[0]}"]


_SPLICE = (sys.executable, "-m", "benchmarks.front.splice")


def _our_version() -> str:
    return f"on uvloop {importlib.metadata.version('uvloop')}"


# ---- from Debian --------------------------------------------------------------------------------------------------


def _nginx(folder: Path, port: int, workers: Places) -> list[str]:
    upstream = f"upstream demo {{ {_nginx_servers(workers)} }}"
    return _nginx_argv(folder, _nginx_http(port, upstream, "proxy_pass http://demo;"), "")


def _nginx_lua(folder: Path, port: int, workers: Places) -> list[str]:
    """As a gateway of ours would be written with it: the body is parsed, and its model names the upstream."""
    upstream = f"upstream {MODEL} {{ {_nginx_servers(workers)} }}\nlua_package_cpath '/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;;';"
    location = f"""
        set $chosen "";
        access_by_lua_block {{
            local cjson = require "cjson.safe"
            ngx.req.read_body()
            local asked = cjson.decode(ngx.req.get_body_data() or "")
            if not asked or asked.model ~= "{MODEL}" then
                return ngx.exit(ngx.HTTP_NOT_FOUND)
            end
            ngx.var.chosen = asked.model
        }}
        proxy_pass http://$chosen;"""
    modules = "\n".join(f"load_module {_NGINX_MODULES / name};" for name in _LUA_MODULES)
    return _nginx_argv(folder, _nginx_http(port, upstream, location), modules)


def _nginx_servers(workers: Places) -> str:
    servers = " ".join(f"server unix:{path};" for path in workers.sockets)
    return f"least_conn; {servers} keepalive 256; keepalive_requests 1000000000;"


def _nginx_http(port: int, upstream: str, location: str) -> str:
    return f"""
    {upstream}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        keepalive_requests 1000000000;
        client_max_body_size 64m;
        client_body_buffer_size 1m;
        location / {{
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_buffer_size 64k;
            proxy_buffers 8 64k;
            proxy_read_timeout 600s;{location}
        }}
    }}"""


def _nginx_argv(folder: Path, http: str, modules: str) -> list[str]:
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # The sockets lie in a folder that only this user may enter.
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
    config = f"""{modules}
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
{temporary}{http}
}}
"""
    (folder / "nginx.conf").write_text(config)
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def _nginx_version() -> str | None:
    return _said_version("nginx", "-v")


def _nginx_lua_version() -> str | None:
    has_modules = all((_NGINX_MODULES / name).exists() for name in _LUA_MODULES)
    has_json = Path("/usr/lib/x86_64-linux-gnu/lua/5.1/cjson.so").exists()
    return _nginx_version() if has_modules and has_json else None


def _haproxy(folder: Path, port: int, workers: Places) -> list[str]:
    servers = "\n".join(f"    server w{number} unix@{path}" for number, path in enumerate(workers.sockets))
    config = f"""
global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    option http-keep-alive
    option http-no-delay
    http-reuse always
frontend public
    bind 127.0.0.1:{port} backlog 4096
    default_backend workers
backend workers
    balance leastconn
{servers}
"""
    (folder / "haproxy.cfg").write_text(config)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def _haproxy_version() -> str | None:
    return _said_version("haproxy", "-v")


def _said_version(program: str, flag: str) -> str | None:
    if (path := shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")) is None:
        return None
    said = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return found[0] if found else None


# ---- from the Python registry --------------------------------------------------------------------------------------


def _vllm_router(policy: str) -> Callable[[Path, int, Places], list[str]]:
    def to_argv(folder: Path, port: int, workers: Places) -> list[str]:
        del folder
        # Without a bound that a test of 200 streams would meet.
        bounds = ["--max-concurrent-requests=8192", "--request-timeout-secs=600"]
        return [str(PEERS / "bin" / "vllm-router"), *_router_argv(port, workers, policy), "--log-level=error", *bounds]

    return to_argv


def _smg(folder: Path, port: int, workers: Places) -> list[str]:
    del folder
    # It is a router here: it needs no tokenizer, and there is none to be had.
    argv = [str(PEERS / "bin" / "smg"), "launch", *_router_argv(port, workers, "cache_aware")]
    return [*argv, "--log-level=error", "--disable-tokenizer-autoload"]


def _router_argv(port: int, workers: Places, policy: str) -> list[str]:
    urls = [f"http://127.0.0.1:{worker}" for worker in workers.ports]
    metrics = f"--prometheus-port={free_port()}"
    return ["--host=127.0.0.1", f"--port={port}", f"--policy={policy}", metrics, "--worker-urls", *urls]


def _in_peers(package: str) -> Callable[[], str | None]:
    def version() -> str | None:
        folders = [str(folder) for folder in PEERS.glob("lib/python3*/site-packages")]
        return next((one.version for one in importlib.metadata.distributions(name=package, path=folders)), None)

    return version


TCP_SPLICE, UNIX_SPLICE, HAPROXY, VLLM_ROUTER, SMG = "TCP splice", "unix splice", "HAProxy", "vllm-router", "smg"

GATEWAYS = (
    Gateway(TCP_SPLICE, "", _our_version, _splice_tcp, is_floor=True),
    Gateway(UNIX_SPLICE, "", _our_version, _splice_unix, is_floor=True),
    Gateway("nginx", _FROM_DEBIAN.format("nginx-light"), _nginx_version, _nginx),
    Gateway(
        "nginx + Lua",
        _FROM_DEBIAN.format("nginx-light libnginx-mod-http-lua lua-cjson"),
        _nginx_lua_version,
        _nginx_lua,
    ),
    Gateway(HAPROXY, _FROM_DEBIAN.format("haproxy"), _haproxy_version, _haproxy),
    Gateway(VLLM_ROUTER, _FROM_REGISTRY, _in_peers("vllm-router"), _vllm_router("round_robin")),
    Gateway(f"{VLLM_ROUTER} cache aware", _FROM_REGISTRY, _in_peers("vllm-router"), _vllm_router("cache_aware")),
    Gateway(SMG, _FROM_REGISTRY, _in_peers("smg"), _smg),
)


def missing() -> dict[str, str]:
    """Of those that are not installed here: how to get them."""
    return {gateway.name: gateway.install for gateway in GATEWAYS if gateway.version() is None}
