"""Explains verdicts: how the gold answer and the answer were read, and by which rule they were compared."""

from components.shared.grading.mathematics.units import conversion, is_unit
from components.shared.grading.mathematics.values import (
    Based,
    Group,
    Matrix,
    Quantity,
    Ratio,
    RealSet,
    Relation,
    Value,
    Words,
)
from components.shared.grading.settings import GradingSettings

_MAX_CHARACTERS = 40


def explanation(gold: Value, answer: Value, settings: GradingSettings) -> str:
    """Returns one line: both readings, and the rule that compares values of these kinds."""
    return f"{_described(gold)} and {_described(answer)}: {_rule(gold, answer, settings)}"


def _short(text: str) -> str:
    text = " ".join(text.replace("⟦", "").replace("⟧", "").split())
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 3] + "..."


def _described(value: Value) -> str:
    if isinstance(value, Quantity):
        kind = "expression" if value.tree.free_symbols else "number"
        return f"{kind} {_short(value.text)}" + (f" in {_short(value.unit)}" if value.unit else "")
    if isinstance(value, Words):
        return f"words {_short(value.text)!r}"
    if isinstance(value, Group):
        kind = value.kind if value.kind in ("list", "set") else f"tuple {value.kind}"
        return f"{kind} of {len(value.items)}"
    if isinstance(value, Relation):
        kind = "equation" if value.operator == "=" else "inequality"
        return f"{kind} for {_short(value.name)}" if value.name else kind
    if isinstance(value, Matrix):
        return f"{len(value.rows)} x {len(value.rows[0]) if value.rows else 0} matrix"
    if isinstance(value, Based):
        return f"numeral in base {value.base}"
    return "set of real numbers" if isinstance(value, RealSet) else f"ratio {_short(value.text)}"


def _rule(gold: Value, answer: Value, settings: GradingSettings) -> str:
    kinds = (gold, answer)
    if any(isinstance(value, Relation) for value in kinds):
        both = all(isinstance(value, Relation) for value in kinds)
        return "same name and value, or one is a multiple of the other" if both else "by the assigned value"
    if any(isinstance(value, Words) for value in kinds):
        return "as words"
    if any(isinstance(value, RealSet) for value in kinds):
        return "as sets, including endpoints"
    if any(isinstance(value, Matrix) for value in kinds):
        return "entry by entry"
    if any(isinstance(value, Group) for value in kinds):
        if all(isinstance(value, Group) and value.kind in ("set", "list") for value in kinds):
            loose = settings.order == "any" or any(isinstance(v, Group) and v.kind == "set" for v in kinds)
            return "item by item in any order" if loose else f"item by item, order={settings.order}"
        return "item by item in order, including brackets"
    if any(isinstance(value, Based) for value in kinds):
        return "by base and value"
    if any(isinstance(value, Ratio) for value in kinds):
        return "part by part"
    assert isinstance(gold, Quantity) and isinstance(answer, Quantity)
    return _rule_of_quantities(gold, answer, settings)


def _rule_of_quantities(gold: Quantity, answer: Quantity, settings: GradingSettings) -> str:
    if gold.is_percent != answer.is_percent:
        return f"percent as a fraction, percent={settings.percent}"
    if gold.unit != answer.unit:
        if not gold.unit:
            return "the gold answer has no unit"
        if not answer.unit and answer.tree.free_symbols:
            return "letters after the number read as a unit"
        if not answer.unit:
            return (
                f"the answer has no unit, units={settings.units}"
                if is_unit(gold.unit)
                else "the counted noun is omitted"
            )
        found = conversion(gold.unit, answer.unit, False)
        return "incompatible units" if found is None else "converted to the gold answer's unit"
    if gold.tree.free_symbols or answer.tree.free_symbols:
        return "compared at exact points"
    if (answer.decimals is None) != (gold.decimals is None):
        return f"a decimal, rounded_gold={settings.rounded_gold}"
    return "compared exactly"
