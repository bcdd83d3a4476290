"""A cache of the Hugging Face hub, as its library leaves it after a download."""

from __future__ import annotations

import shutil
from pathlib import Path

#: Nothing listens there: who asks the hub is refused at once.
NOWHERE = "http://127.0.0.1:9"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_into_cache(directory: Path, cache: Path, repo: str, kind: str = "model") -> Path:
    """Copy a model's files into the cache under a repository's name; returns the snapshot."""
    root = cache / f"{kind}s--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for folder in (root / "blobs", root / "refs", snapshot):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(path for path in directory.iterdir() if path.is_file())):
        blob = root / "blobs" / f"{number:040x}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot
