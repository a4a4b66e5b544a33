"""A captured decode step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .handles import Handle
from .native import check, created, lib, make
from .records import GraphInfo, queried, set_field

if TYPE_CHECKING:
    from .session import Session


class Graph(Handle):
    """Made by `Session.capture` (CUDA only). Position, token and sampler are on the device. Valid for any position up to the session's
    capacity, across truncation; it keeps its session alive."""

    def __init__(self, session: Session, n_steps: int = 1) -> None:
        options = make("cf_graph_options")
        set_field(options, "n_steps", n_steps)
        keep = (session.options, *session.model.context._keep)
        super().__init__(created("cf_graph", lib.cf_graph_capture, session.handle, options, keep=keep))
        self.session = session

    def launch(self) -> None:
        """Enqueues one replay on the session's stream; what it came to is told by `Session.wait`."""
        check(lib.cf_graph_launch(self.handle))

    @property
    def info(self) -> GraphInfo:
        return queried(GraphInfo, lib.cf_graph_query, self.handle, "cf_graph_info")
