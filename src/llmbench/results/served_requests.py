"""The raw requests of a run's served sessions as columns: a row for each request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbench.errors import RunError
from llmbench.numbers import plural
from llmbench.results import requests_file, store
from llmbench.results.record import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmbench.results.requests_file import Requests
    from llmbench.results.store import Log


def columns(log: Log, folder: Path) -> list[tuple[str, list[object]]]:
    """Return the requests of every served session; times in seconds from the window's start.

    Raises:
        RunError: no session of the run was served, or a file is missing or damaged.

    """
    found: dict[str, list[object]] = {}
    missing: list[str] = []
    for line in log:
        if isinstance(line, Result) and line.outcome.served:
            path = path_of(folder, line.outcome.served.requests)
            if path is None:
                continue
            if not path.exists():
                missing.append(path.name)
                continue
            try:
                requests = requests_file.load(path)
            except OSError as error:
                raise RunError(f"{path}: {error.strerror}.") from error
            except ValueError as error:
                raise RunError(f"{error}.") from error
            origin = {
                "cell": line.id, "session": line.session, "attempt": line.attempt, "status": str(line.status),
            }  # fmt: skip
            for row in _rows(requests, line.outcome.served.window_s):
                for key, value in {**origin, **row}.items():
                    found.setdefault(key, []).append(value)
    if missing:
        raise RunError(
            f"{folder / store.REQUESTS}: {plural(len(missing), 'file')} of raw requests "
            f"{'is' if len(missing) == 1 else 'are'} missing, such as {missing[0]}. Copy the whole folder of the run."
        )
    if not found:
        raise RunError(f"{folder}: no session has a file of raw requests; only served cells do.")
    return list(found.items())


def path_of(folder: Path, told: Mapping[str, Any]) -> Path | None:
    """Return where a session's file is, in the run's own folder whatever the record says; None if it has none."""
    name = Path(str(told.get("file", ""))).name
    return folder / store.REQUESTS / name if name else None


def _rows(requests: Requests, window_s: float) -> Iterator[dict[str, object]]:
    for row, due_s in enumerate(requests.due_s.tolist()):
        tokens = requests.token_s[row].tolist()
        whole = bool(tokens) and not requests.trouble[row]
        yield {
            "request": int(requests.number[row]),
            "due_s": due_s,
            "in_window": 0 <= due_s < window_s,
            "sent_s": float(requests.sent_s[row]),
            "ended_s": float(requests.ended_s[row]),
            "ttft_s": tokens[0] - due_s if whole else np.nan,
            "e2e_s": tokens[-1] - due_s if whole else np.nan,
            **{
                name: _told(getattr(requests, name)[row])
                for name in ("tokens", "prompt_tokens", "cached_tokens")
            },
            "token_s": tokens,
            "trouble": requests.trouble[row],
        }


def _told(count: int) -> int | None:
    return None if count == requests_file.UNTOLD else int(count)
