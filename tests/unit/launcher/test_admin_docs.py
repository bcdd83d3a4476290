"""docs/admin.md tells of every path, command, argument and code."""

from __future__ import annotations

import re
from pathlib import Path

from ichat.backends import engine_control
from ichat.backends.engine_control import ACTIONS, CommandError
from ichat.launcher.admin_paths import AdminPaths
from tests.unit.launcher.fake_controls import FakeControls

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "admin.md").read_text()


async def test_every_path_and_command_is_told() -> None:
    listed = (await AdminPaths(FakeControls(), 1).answer("GET", "/admin", b"")).body["paths"]
    rows = re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE)
    for line in listed:
        assert line in rows or line.rpartition("/")[2] in rows, line


def test_every_argument_is_told_in_its_commands_row() -> None:
    for action, schema in ACTIONS.items():
        row = re.search(rf"^\| `{action}` \|([^|]*)\|", PAGE, re.MULTILINE)
        assert row, action
        assert all(f"`{name}`" in row[1] for name in schema.model_fields), action


def test_every_code_of_a_refusal_is_told() -> None:
    kinds = [
        kind for kind in vars(engine_control).values() if isinstance(kind, type) and issubclass(kind, CommandError)
    ]
    assert len(kinds) >= 6
    for kind in kinds:
        assert re.search(rf"^\| [\d, ]*{kind.status}[\d, ]* \|.*`{kind.code}`", PAGE, re.MULTILINE), kind
