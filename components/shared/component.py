"""The decorator for the stages' component functions."""

from collections.abc import Callable
from typing import Any

from kfp import dsl


def stage_component(stage: str) -> Callable[[Callable[..., None]], Any]:
    """Turns a function into the KFP component of a stage.

    A compiled pipeline names the function's module instead of embedding its source, so a stage's pod imports that
    module with only KFP's runtime installed. The runtime has no `dsl.component`: there, the function stays as it is.

    Args:
        stage: the stage's folder under components.
    """
    if not hasattr(dsl, "component"):
        return lambda function: function
    component: Callable[[Callable[..., None]], Any] = dsl.component(
        base_image=f"rloop-{stage.replace('_', '-')}", install_kfp_package=False
    )
    return component
