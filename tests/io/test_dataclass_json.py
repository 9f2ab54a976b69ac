import json
from dataclasses import dataclass, field

import pytest

from fmdp.errors import InputError
from fmdp.io.dataclass_json import from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Point:
    t: int | float | None = None
    required: float | None
    measures: dict[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Curve:
    name: str
    points: list[Point]
    count: int = 1
    notes: dict[str, str] | None = None


CURVE = Curve(name="a", points=[Point(t=0.5, required=1.0, measures={"mse": 2.0, "n": 3}), Point(required=None)])
JSON = {"name": "a", "points": [{"t": 0.5, "required": 1.0, "mse": 2.0, "n": 3}, {"required": None}], "count": 1}


def test_absent_values_are_left_out_and_measures_stand_beside_the_other_keys():
    assert to_json(CURVE) == JSON
    assert to_json({"a": [CURVE]}) == {"a": [JSON]}
    assert list(to_json(CURVE)) == ["name", "points", "count"]


def test_json_and_back_is_the_same():
    assert from_json(Curve, json.loads(json.dumps(to_json(CURVE))), "curve") == CURVE
    assert from_json(Curve, JSON | {"unknown": 3}, "curve") == CURVE
    assert from_json(list[Curve], [JSON], "curves") == [CURVE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "curve.name is '3', not str"),
        ({"points": [{}]}, r"curve.points\[0\] has no required"),
        ({"points": {}}, "curve.points is '{}', not list"),
        ({"points": [{"required": 1.0, "mse": "x"}]}, r"curve.points\[0\].mse is 'x', not int or float"),
        ({"points": [{"required": 1.0, "mse": True}]}, "mse is 'True', not int or float"),
        ({"points": [{"required": 1.0, "mse": 10**400}]}, r"mse is '10+', not int or float"),
        ({"count": 1.5}, "curve.count is '1.5', not int"),
        ({"count": None}, "curve.count is 'None', not int"),
        ({"notes": {"a": 1}}, "curve.notes.a is '1', not str"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(change, message):
    with pytest.raises(InputError, match=message):
        from_json(Curve, JSON | change, "curve")
