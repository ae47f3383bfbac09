"""Local servers that stand in for a model hub."""

import http.server
from typing import Any


class Refusing(http.server.BaseHTTPRequestHandler):
    """A hub that answers every question with one refusal."""

    code, reason = 404, ""

    def do_GET(self) -> None:
        """Refuse."""
        code, reason = self.refusal()
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def refusal(self) -> tuple[int, str]:
        """Send the status and the hub's error code."""
        return self.code, self.reason

    def do_HEAD(self) -> None:
        """Refuse."""
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
