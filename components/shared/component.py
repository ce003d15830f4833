"""The decorator of the stages' component functions."""

from collections.abc import Callable
from typing import Any

from kfp import dsl


def stage_component(stage: str) -> Callable[[Callable[..., None]], Any]:
    """Makes a function the KFP component of a stage.

    A compiled pipeline names the module of the function instead of carrying its source, so a stage's pod imports that
    module, with KFP's runtime alone. The runtime has no components: there, the function stays as it is.

    Args:
        stage: its folder under components.
    """
    if not hasattr(dsl, "component"):
        return lambda function: function
    component: Callable[[Callable[..., None]], Any] = dsl.component(
        base_image=f"rloop-{stage.replace('_', '-')}", install_kfp_package=False
    )
    return component
