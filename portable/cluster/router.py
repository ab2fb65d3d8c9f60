"""Which replica gets a request: the session's own, while it has room. Ray Serve's router, bent.

Ray's `ConsistentHashRouter` puts sessions on a ring of replicas: every router finds the same
replica without telling the others, and when replicas come and go only their sessions move. One
whose replica has no room goes to the next on the ring, and comes back later.
"""

from __future__ import annotations

import random
from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

BOUND = "!"  # ends the id of a session that must not leave its replica


class SessionRouter(ConsistentHashRouter):  # type: ignore[misc]  # without Ray its type is unknown
    """Ray's ring, but for sessions that must not leave and for requests without one."""

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Ranks of replicas, to be tried in order; of one rank Ray takes the least busy replica,
        and the first of those that are equally busy.
        """
        ranks: list[list[Any]] = await super().choose_replicas(candidate_replicas, pending_request)
        session: str = pending_request.metadata.session_id if pending_request else ""
        if not session:
            return [random.sample(candidate_replicas, len(candidate_replicas))]
        return ranks[:1] if session.endswith(BOUND) else ranks
