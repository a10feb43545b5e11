"""How long the random tests look.

`BUS_TEST_EFFORT=100 pytest tests/system/test_model.py tests/system/test_fuzz.py` looks 100 times as long as CI does.
They print what they find with a way to do it again; `--hypothesis-seed=N` repeats a whole run.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_EFFORT = float(os.environ.get("BUS_TEST_EFFORT") or 1)
_PATIENCE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


def looks(examples: int, steps: int = 1) -> settings:
    """Hypothesis settings: the number of examples at the usual effort, and of steps in each run of a state machine."""
    return settings(
        max_examples=max(1, round(examples * _EFFORT)),
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=_PATIENCE,
    )
