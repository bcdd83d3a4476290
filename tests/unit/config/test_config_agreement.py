"""What does not go together beside the models: ports, TLS files, the addresses of a gateway."""

import pytest

MODEL = "models: {m: {model_path: org/m}}\n"


def test_the_two_files_of_tls_come_together(lines):
    assert lines(yaml=MODEL + "server: {tls_cert_file: /c}") == [
        "configs.yaml:2:25 server.tls_cert_file: needs tls_key_file beside it. Set both, or neither."
    ]
    assert lines("--tls-key-file=/k", yaml=MODEL) == [
        "--tls-key-file: needs tls_cert_file beside it. Set both, or neither."
    ]


def test_the_admin_port_is_another_one(lines):
    both = "server: {port: 9000}\nadmin: {port: 9000, token: t}"
    assert lines(yaml=MODEL + both) == [
        "configs.yaml:3:15 admin.port: 9000 is the public port too (configs.yaml:2:16). Choose another."
    ]
    assert lines("--port=8001", yaml=MODEL, env={"ICHAT_ADMIN_TOKEN": "t"}) == [
        "--port: 8001 is the admin port too (its default). Choose another."
    ]
    assert lines(yaml=MODEL, env={"ICHAT_ADMIN_TOKEN": "t", "ICHAT_ADMIN_PORT": "8000"}) == [
        "ICHAT_ADMIN_PORT: 8000 is the public port too (its default). Choose another."
    ]


def test_without_a_token_there_is_no_admin_port_to_be_in_the_way(configure):
    assert configure("--port=8001", yaml=MODEL).settings.server.port == 8001


def test_two_free_ports_are_two_ports(configure):
    yaml = MODEL + "server: {port: 0}\nadmin: {port: 0, token: t}"
    assert configure(yaml=yaml).settings.admin.port == 0


@pytest.mark.parametrize("url", ["http://router:30000", "https://router", "http://[::1]:8000", "http://10.0.0.1:80/"])
def test_a_gateway_is_named_by_its_url_and_a_slash_at_its_end_is_nothing(configure, url):
    gateway = configure("--gateway", url, yaml=MODEL + f"gateway: {{advertise: '{url}'}}").settings.gateway
    assert (gateway.address, gateway.advertise) == (url.rstrip("/"), url.rstrip("/"))


@pytest.mark.parametrize(
    "url",
    [
        "router:30000",
        "grpc://router:30000",
        "http://",
        "http://router/workers",
        "http://router?x=1",
        "http://router#x",
        "http://router:port",
        "http://router:99999",
        "http://ro uter",
        "http://[::1",
    ],
)
def test_a_gateway_that_is_no_plain_url_is_refused(lines, url):
    expected = f'expected http://host:port or https://host:port, found "{url}".'
    assert lines(yaml=MODEL + f"gateway: {{address: '{url}'}}") == [f"configs.yaml:2:20 gateway.address: {expected}"]
    assert lines(yaml=MODEL + f"gateway: {{advertise: '{url}'}}")[0].endswith(expected)


def test_credentials_in_a_url_are_refused_and_not_shown(lines):
    (line,) = lines("--gateway=http://me:canary@router", yaml=MODEL)
    assert line == "--gateway: expected http://host:port or https://host:port, found an address with credentials."


@pytest.mark.parametrize("number", [0, 65])
def test_the_number_of_front_processes_has_bounds(lines, number):
    (line,) = lines(yaml=MODEL + f"front: {{processes: {number}}}")
    assert line == f"configs.yaml:2:20 front.processes: expected a whole number from 1 to 64, found `{number}`."
