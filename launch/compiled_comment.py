"""The comment at the top of a compiled pipeline, for whoever opens the file.

A workflow object has no room for descriptions, so they are here, where a cluster does not store them.
"""

import ast
from typing import Any


def comment(header: list[str], specification: dict[str, Any]) -> list[str]:
    """Returns the comment's lines.

    Args:
        header: Comment of KFP's compiler: the pipeline's name, and its parameters with their defaults.
        specification: Specification written by the compiler, with sources and descriptions.
    """
    lines = [*header, "# Parameters:"]
    for name, parameter in specification["root"]["inputDefinitions"]["parameters"].items():
        lines.append(f"#    {name}: {parameter.get('description', '')}")
    lines.append("# Stages:")
    for stage, docstring in sorted(_docstrings(specification).items()):
        first, *others = docstring.splitlines()
        lines.append(f"#    {stage}: {first}")
        lines += [f"#    {line}".rstrip() for line in others if line.strip() and line.strip() != "Args:"]
    return lines


def _docstrings(specification: dict[str, Any]) -> dict[str, str]:
    """Returns the docstring of each component function."""
    found = {}
    for executor in specification["deploymentSpec"]["executors"].values():
        if container := executor.get("container"):
            for node in ast.parse(container["command"][-1]).body:
                if isinstance(node, ast.FunctionDef):
                    found[node.name] = ast.get_docstring(node) or ""
    return found
