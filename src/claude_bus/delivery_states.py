"""The states of a delivery, as one table. Pure.

A delivery is one message on its way to one recipient. Its state is what the sender may
rely on, so each state means exactly what somebody knows, and no more:

- `queued`: stored; it waits for the recipient.
- `handed`: a process put it into an answer for the recipient's model, and nothing proves
  yet that the model had it.
- `read`: the recipient's conversation demonstrably went on after it.
- `acked`: the recipient said so, by an acknowledgement or a reply.
- `expired`: it will not be handed over: its ttl ran out, or its recipient was not heard of
  for too long.

Three rules follow, and the table has nothing else in it:

1. Only evidence moves a delivery forward. `confirm` is the evidence of a conversation that
   went on; `reply` and `acknowledge` are the recipient's own word.
2. A hand-over without evidence goes back. Whenever the process that made it dies, the answer
   is lost on its way, or the conversation is cleared, `requeue` makes the delivery wait
   again. Its next hand-over is marked "possibly seen".
3. `read`, `acked` and `expired` never go back. The word of the recipient still counts after
   a ttl ran out: it can only say that it had the message.

`sql.deliveries` applies the table: a statement that changes a state takes its sources and
its target from here, and a test walks through every pair of a state and a cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .model.messages import DeliveryState

Cause = Literal["hand_over", "confirm", "requeue", "transfer", "expire", "reply", "acknowledge", "import"]

TRANSITIONS: Mapping[tuple[DeliveryState, Cause], DeliveryState] = {
    ("queued", "hand_over"): "handed",
    ("handed", "confirm"): "read",
    ("handed", "requeue"): "queued",
    ("handed", "transfer"): "handed",  # to the process whose conversation it reached
    ("queued", "expire"): "expired",
    ("handed", "reply"): "acked",
    ("read", "reply"): "acked",
    ("queued", "acknowledge"): "acked",
    ("handed", "acknowledge"): "acked",
    ("read", "acknowledge"): "acked",
    ("queued", "import"): "acked",
    ("handed", "import"): "acked",
    ("read", "import"): "acked",
    ("expired", "import"): "acked",
}
"""The state that a cause leads to. A pair that is not here changes nothing."""


def sources(cause: Cause) -> tuple[DeliveryState, ...]:
    """The states in which a cause applies."""
    return tuple(state for state, each in TRANSITIONS if each == cause)


def target(cause: Cause) -> DeliveryState:
    """The state that a cause leads to, whichever state it comes from."""
    [state] = {after for (_, each), after in TRANSITIONS.items() if each == cause}
    return state
