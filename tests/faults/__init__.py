"""The fault campaign: sessions share one bus while their processes are killed, and a judge examines the outcome.

`python -m tests.faults --seed 7 --rounds 100 --kills 10000`, with `src` and `tests` on the path; Linux only. In each
round several scripted sessions (`client`) run real servers on one bus file, send, read, write state, claim, rename,
leave. Meanwhile processes are killed at any moment and at the worst ones (`doom`), stopped, locked out, left without
disk, checkpointed under, and given a clock that jumps (`hazards`). Some of the sessions are elsewhere: a served bus
that is killed and restarted too is all they have, and the line to it (`relay`) loses answers, holds them, breaks.
Then the faults stop, everybody recovers and reads what waits, and `judge` holds the history against the promises of
docs/design/delivery.md: what the sessions wrote down (`journal`) against what the store did (`audit`).

All decisions come from the seed, but the scheduling of processes does not, so a seed repeats the kind of a run and
not its course. To show that the judge detects faults, `sabotage` breaks the bus on purpose.
"""
