"""The routes of the two earlier systems' wires, as the served app includes them."""

from __future__ import annotations

from starlette.routing import BaseRoute

from ..http.service import Service
from .http import messages_ack, recv_send


def routes(service: Service) -> list[BaseRoute]:
    """Both wires: agent-bus (`/send`, `/recv`, ...) and WholeTech's claude-bus (`/post`, `/messages`, `/ack`)."""
    return [*recv_send.routes(service), *messages_ack.routes(service)]
