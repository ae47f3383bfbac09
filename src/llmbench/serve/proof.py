"""The first request of a session, sent alone: the server answers, and gives as many tokens as were asked for, counted.

Nothing here loads numpy: a server that is there already gets this request soon after the command was given.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmbench.errors import LoadFailed
from llmbench.serve import endpoint, wire
from llmbench.serve.prompts import Prompts
from llmbench.serve.stream import Client
from llmbench.spec import load as spec_load

if TYPE_CHECKING:
    from llmbench.measure.loop import Measurement
    from llmbench.results.record import Job
    from llmbench.serve.endpoint import Endpoint
    from llmbench.serve.trace import Trace
    from llmbench.spec.sweep import Cell

DRAIN_NS = 600_000_000_000


class Proof:
    """The requests of a cell, and what the first of them has shown.

    Attributes:
        load: what arrives when.
        options: of the load, those not given at their defaults.
        request: writes a request, by its number.
        alone_s: how long one takes alone.
        by_ids: whether its tokens were counted by their ids.
        reopens: whether the server takes one request a connection.

    """

    def __init__(self, target: Endpoint, job: Job, cell: Cell) -> None:
        """Prepare the requests without sending any."""
        self.target, self.cell = target, cell
        self.options = spec_load.with_defaults(cell.options)
        self.load = spec_load.parse(str(self.options["load"]))
        self.trace = self._trace()
        # A server that was there before may have kept the prompts of an earlier sweep with this seed.
        before = "" if target.facts["fresh"] else f"/{time.time_ns()}"
        seed = f"{job.protocol.seed}/{cell.id}/{job.session}{before}"
        blocks = self.trace.blocks if self.trace else ()
        self.request = Prompts(target, self.options, self.lengths, cell.input_len, seed, blocks)
        self.alone_s, self.by_ids, self.reopens = 0.0, False, False

    def _trace(self) -> Trace | None:
        if self.load.kind != spec_load.TRACE:
            return None
        from llmbench.serve import trace  # noqa: PLC0415 - loads numpy

        return trace.read(self.load.file)

    def lengths(self, number: int) -> tuple[int, int]:
        """Return the tokens of a request's prompt and of its answer."""
        if self.trace is None:
            return self.cell.input_len, self.cell.output_len
        return self.trace.lengths(number)

    def prove(self, taken: Measurement) -> None:
        """Send the first request alone, and note how long it took and how its tokens were counted.

        Raises:
            LoadFailed: it was not answered, or has not the lengths that were asked for.

        """
        input_len, wanted = self.lengths(0)
        reply = self._alone(ids=True)
        if (
            wire.REFUSED in reply.trouble
        ):  # some servers refuse a request with a field they do not know
            reply = self._alone(ids=False)
        if reply.trouble:
            words = wire.REFUSED in reply.trouble and self.options["prompt_as"] == "ids"
            advice = "; prompt_as=text sends words instead of ids" if words else ""
            raise LoadFailed(f"the server did not answer: {reply.trouble}{advice}")
        if reply.tokens is None:
            raise LoadFailed("the server does not count its tokens: no usage came with the answer")
        if reply.prompt_tokens not in (None, input_len):
            raise LoadFailed(
                f"the server counts {reply.prompt_tokens} prompt tokens for one of {input_len}"
            )
        if reply.token_ids and len(reply.token_ids) != wanted:
            raise LoadFailed(
                f"the server gave {len(reply.token_ids)} ids, and {wanted} were asked for"
            )
        if reply.tokens != wanted:
            raise LoadFailed(f"the server gave {reply.tokens} tokens, and {wanted} were asked for")
        taken.warmup_ns.append(reply.ended_ns - reply.sent_ns)
        self.alone_s, self.by_ids = (reply.ended_ns - reply.sent_ns) / 1e9, bool(reply.token_ids)

    def _alone(self, *, ids: bool) -> wire.ServedReply:
        """Send one request while no other is live, see whether the server then closes, and return the reply."""
        written = self.request.proof(ids=ids)
        try:
            client = Client(
                self.target.address[:2],
                1,
                lambda _: written,
                wire.reply,
                drain_ns=DRAIN_NS,
                tls=endpoint.context(self.target.address),
            )
        except OSError as error:
            raise LoadFailed(f"the server takes no connection: {error}") from error
        try:
            client.open_loop([0], lambda each, moment: moment if each.sent else None)
            self.reopens = client.is_closed_by_server()
            client.parse_all()
        finally:
            client.close()
        if not client.answers:
            raise LoadFailed("the server did not answer")
        reply: wire.ServedReply = client.answers[0]
        return reply
