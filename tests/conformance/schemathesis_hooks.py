"""Hooks of Schemathesis: requests name the model that is served, or none would be answered."""

from __future__ import annotations

from typing import Any

import schemathesis  # type: ignore[import-not-found]  # it has an environment of its own

MODEL_ID = "mock"

MODEL_FIELDS = ("model", "model_id", "model_name")


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Replace each model's name in the path and in the body."""
    for part in (case.path_parameters, case.body):
        if isinstance(part, dict):
            for name in MODEL_FIELDS:
                if isinstance(part.get(name), str):
                    part[name] = MODEL_ID
