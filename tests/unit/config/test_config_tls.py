"""Certificate and key of the public port: loaded before anything is started, as the front will."""

import contextlib
import os
import subprocess

import pytest

from ichat.config.preflight import preflight
from ichat.errors import ConfigError, ExitCode

YAML = "models: {m: {model_path: org/m}}\nserver:\n  tls_cert_file: CERT\n  tls_key_file: KEY\n"


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """A certificate and its key, another key, and the first one encrypted."""
    path = tmp_path_factory.mktemp("tls")
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2", "-subj", "/CN=ichat"]
    openssl(*new, "-nodes", "-keyout", path / "key.pem", "-out", path / "cert.pem")
    openssl(*new, "-nodes", "-keyout", path / "other.pem", "-out", path / "other-cert.pem")
    openssl("pkey", "-in", path / "key.pem", "-aes128", "-passout", "pass:x", "-out", path / "locked.pem")
    (path / "text.pem").write_text("canary")
    return path


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def check(configure, scratch):
    def run(cert, key, rights=contextlib.nullcontext):
        resolved = configure(yaml=YAML.replace("CERT", str(cert)).replace("KEY", str(key)))
        try:
            with rights():
                preflight(resolved)
        except ConfigError as error:
            return str(error).replace(f"{scratch}/", ""), error.exit_code
        return "", ExitCode.OK

    return run


def test_a_certificate_and_its_key_pass(check, pems):
    assert check(pems / "cert.pem", pems / "key.pem") == ("", ExitCode.OK)


def test_both_files_that_are_missing_are_told_with_their_places(check):
    words, code = check("/no/cert", "/no/key")
    assert code == ExitCode.NO_INPUT
    assert words == (
        "configs.yaml:3:18 server.tls_cert_file: /no/cert: no such file. Mount it.\n"
        "configs.yaml:4:17 server.tls_key_file: /no/key: no such file. Mount it."
    )


@contextlib.contextmanager
def without_roots_rights():
    """Root may read everything: whoever runs the tests as root is somebody else meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_key_that_may_not_be_read_is_a_matter_of_permission(check, pems, tmp_path):
    key = tmp_path / "key.pem"
    key.write_text("x")
    key.chmod(0)
    check(pems / "cert.pem", pems / "key.pem")  # with all that has to be imported
    assert check(pems / "cert.pem", key, without_roots_rights)[1] == ExitCode.PERMISSION


@pytest.mark.parametrize(
    ("cert", "key", "place", "expected"),
    [
        ("cert.pem", "other.pem", "4:17 server.tls_key_file: ", "is not the key of the certificate"),
        ("cert.pem", "locked.pem", "4:17 server.tls_key_file: ", "is encrypted"),
        ("cert.pem", "text.pem", "4:17 server.tls_key_file: ", "is not a private key (PEM)"),
        ("text.pem", "key.pem", "3:18 server.tls_cert_file: ", "is not a certificate chain (PEM)"),
        ("key.pem", "key.pem", "3:18 server.tls_cert_file: ", "is not a certificate chain (PEM)"),
        ("cert.pem", ".", "4:17 server.tls_key_file: ", "cannot be read"),
    ],
)
def test_a_pair_that_cannot_be_used_is_refused_where_it_was_named(check, pems, cert, key, place, expected):
    words, code = check(pems / cert, pems / key)
    assert code in {ExitCode.CONFIG, ExitCode.NO_INPUT}
    assert words.startswith(f"configs.yaml:{place}")
    assert expected in words
    assert "canary" not in words
