"""The keys that clients may use: from text and from files, by name, and never shown."""

import pytest

from ichat.config.report import render_config

MODEL = "models: {m: {model_path: org/m}}\n"
CANARY = "canary-51cd"


def keys(resolved):
    return {name: key.get_secret_value() for name, key in resolved.settings.server.api_keys.items()}


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "bob"
    path.write_text(f"{CANARY}-bob\n")
    return path


def test_all_keys_stand_in_one_place_by_name(configure, key_file):
    yaml = f"{MODEL}server:\n  api_keys: {{alice: {CANARY}-alice, 4: 4711}}\n  api_key_files: {{bob: {key_file}}}\n"
    resolved = configure(env={"ICHAT_API_KEY": f"{CANARY}-default"}, yaml=yaml)
    assert keys(resolved) == {
        "default": f"{CANARY}-default",
        "alice": f"{CANARY}-alice",
        "4": "4711",
        "bob": f"{CANARY}-bob",
    }
    page = render_config(resolved)
    assert CANARY not in page
    assert "4711" not in page
    shown = {line.split()[0]: line.split("# ")[1] for line in page.splitlines() if "*****" in line}
    assert shown["default:"] == "ICHAT_API_KEY"
    assert shown["bob:"].endswith("configs.yaml:4:24")


def test_without_a_key_there_is_none(configure):
    assert keys(configure(yaml=MODEL)) == {}


def test_the_key_alone_is_called_default(configure):
    assert keys(configure("--api-key=k", yaml=MODEL)) == {"default": "k"}


def test_keys_may_come_from_the_environment_as_json(configure, key_file):
    env = {
        "ICHAT_SERVER__API_KEYS": '{"alice": "a"}',
        "ICHAT_SERVER__API_KEY_FILES": f'{{"bob": "{key_file}"}}',
    }
    assert keys(configure(yaml=MODEL, env=env)) == {"alice": "a", "bob": f"{CANARY}-bob"}


def test_a_file_is_read_again_by_the_next_resolve(configure, key_file):
    yaml = f"{MODEL}server: {{api_key_files: {{bob: {key_file}}}}}"
    before = configure(yaml=yaml)
    key_file.write_text("new")
    after = configure(yaml=yaml)
    assert (keys(before)["bob"], keys(after)["bob"]) == (f"{CANARY}-bob", "new")
    assert before.settings != after.settings
    assert after.settings == configure(yaml=yaml).settings


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (
            "api_key: canary-51cd-1\n  api_keys: {default: canary-51cd-2}",
            "configs.yaml:4:23 server.api_keys.default: the key default is given by configs.yaml:3:12 too. Give it once.",
        ),
        (
            "api_keys: {bob: canary-51cd}\n  api_key_files: {bob: FILE}",
            "configs.yaml:4:24 server.api_key_files.bob: the key bob is given by configs.yaml:3:19 too. Give it once.",
        ),
        (
            "api_keys: {alice: canary-51cd-bob}\n  api_key_files: {bob: FILE}",
            "configs.yaml:4:24 server.api_key_files.bob: is the same key as alice (configs.yaml:3:21). "
            "Give each name a key of its own.",
        ),
        (
            "api_keys: {a: ''}",
            "configs.yaml:3:17 server.api_keys.a: is empty, which would let everybody in; "
            "it must hold the secret and no more.",
        ),
        (
            'api_keys: {a: "canary-51cd\\nx"}',
            "configs.yaml:3:17 server.api_keys.a: has more than one line; it must hold the secret and no more.",
        ),
        (
            "api_keys: {canary-51cd/x+=: a}",
            "configs.yaml:3:31 server.api_keys: the name of a key has letters, digits and . _ - only, "
            "at most 64; this one does not.",
        ),
        (
            "api_keys: {a: [canary-51cd]}",
            "configs.yaml:3:13 server.api_keys: a: expected text, found something else; put it in quotes.",
        ),
        (
            "api_keys: {a: 47_11}",
            "configs.yaml:3:13 server.api_keys: a: expected text, found something else; put it in quotes.",
        ),
        ("api_keys: canary-51cd", "configs.yaml:3:13 server.api_keys: expected a mapping of names to texts."),
        (
            "api_key_files: {a: /does/not/exist}",
            "configs.yaml:3:22 server.api_key_files.a: /does/not/exist: no such file. Mount the file.",
        ),
        (
            "api_key_files: {a: /}",
            "configs.yaml:3:22 server.api_key_files.a: /: is a directory, not a file. Mount the file.",
        ),
        (
            "api_key_files: {a: /dev/null}",
            "configs.yaml:3:22 server.api_key_files.a: /dev/null: is empty; it must hold the secret and no more. "
            "Write it again.",
        ),
        ("api_key: ''", "configs.yaml:3:12 server.api_key: expected text."),
    ],
)
def test_a_wrong_key_names_its_places_and_is_not_shown(lines, key_file, server, expected):
    found = lines(yaml=f"{MODEL}server:\n  {server.replace('FILE', str(key_file))}\n")
    assert found == [expected]
    assert CANARY not in found[0]


def test_two_sources_of_one_key_are_told_by_their_variables(lines):
    env = {"ICHAT_API_KEY": f"{CANARY}1", "ICHAT_SERVER__API_KEYS": f'{{"default": "{CANARY}2", "b/c": "{CANARY}3"}}'}
    assert lines(yaml=MODEL, env=env) == [
        "ICHAT_SERVER__API_KEYS: default: the key default is given by ICHAT_API_KEY too. Give it once.",
        "ICHAT_SERVER__API_KEYS: the name of a key has letters, digits and . _ - only, at most 64; this one does not.",
    ]


def test_a_key_of_the_admin_port_or_of_the_gateway_must_not_be_empty(lines):
    assert "admin.token: expected text." in lines(yaml=MODEL + "admin: {token: ''}")[0]
    assert "gateway.api_key: expected text." in lines(yaml=MODEL + "gateway: {api_key: ''}")[0]
    assert lines(yaml=MODEL, env={"ICHAT_ADMIN_TOKEN": ""})[0].startswith("ICHAT_ADMIN_TOKEN: is empty")
