"""A method is a value: found in the folder and in other packages, and what it says of itself."""

import pytest

from editing import compute as computing
from editing.method import METHODS, method, method_names
from editing.restraint import RESTRAINTS, restraint
from factscope.data.fact import Fact
from factscope.errors import EditError

FACT = Fact("a", "home", "Foo Bar", "{} lives in", "Rome", "Oslo")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package's entry points, as pip does: a folder NAME.dist-info on the path."""

    def install(name, entry_points):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(entry_points)

    monkeypatch.syspath_prepend(tmp_path)
    return install


def test_another_package_adds_a_method(installed, tiny):
    installed("example", "[factscope.methods]\npush = helpers.example_method:METHOD\n")
    assert "push" in method_names()
    model = tiny("gpt2")
    edit = computing.compute("push", model, [FACT], method("push").config_for(model, ["size=0.5"]), shown=False)
    assert (edit.method, edit.config, edit.moments) == ("push", {"layer": 0, "size": 0.5}, "none")
    assert edit.deltas[0].dense().unique().tolist() == [0.5]


@pytest.mark.parametrize("name", ["rome", "push"])
def test_a_name_that_is_offered_twice_is_refused_and_both_are_named(installed, name):
    installed("example", f"[factscope.methods]\n{name} = helpers.example_method:METHOD\n")
    installed("other", f"[factscope.methods]\n{name} = other_package:METHOD\n")
    assert method_names().count(name) == 1
    first = "editing.methods.closed_form.rome:METHOD" if name == "rome" else "helpers.example_method:METHOD"
    with pytest.raises(EditError, match=f"{name}' is offered more than once, by {first} and by .*other_package:METHOD"):
        method(name)
    assert method("memit").name == "memit"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no_such_package:METHOD", "cannot be imported from no_such_package:METHOD"),
        ("helpers.example_method:NOTHING", "cannot be imported"),
        ("helpers.example_method:Config", "is not a MethodSpec named 'nudge'"),
        ("helpers.example_method:METHOD", "is not a MethodSpec named 'nudge'"),
    ],
)
def test_a_package_that_offers_something_else_is_named(installed, place, message):
    installed("example", f"[factscope.methods]\nnudge = {place}\n")
    with pytest.raises(EditError, match=message):
        method("nudge")


def test_every_method_and_restraint_is_named_as_its_file_and_given_back_as_a_value():
    for name in method_names():
        spec = method(name)
        assert (spec.name, method(spec), method(name.upper().replace("_", "-"))) == (name, spec, spec)
        assert spec.about
        config = spec.Config()
        assert bool(spec.layer_setting) == bool(spec.layers(config)) == (not spec.in_context)
    assert [restraint(restraint(name)).name for name in RESTRAINTS.names()] == list(RESTRAINTS.names())
    assert (METHODS.group, RESTRAINTS.group) == ("factscope.methods", "factscope.restraints")


def test_layers_go_where_the_method_has_room_for_them():
    rome, memit, ice = map(method, ("rome", "memit", "ice"))
    assert rome.layers(rome.at_layers(rome.Config(), (3,))) == (3,)
    assert memit.layers(memit.at_layers(memit.Config(), (3, 5))) == (3, 5)
    with pytest.raises(EditError, match="rome writes to one layer, not to 3, 5"):
        rome.at_layers(rome.Config(), (3, 5))
    with pytest.raises(EditError, match="ice writes to no layer, not to 3"):
        ice.at_layers(ice.Config(), (3,))


def test_a_layer_that_the_model_lacks_is_refused_before_anything_is_computed(tiny):
    with pytest.raises(EditError, match="there is no layer 9"):
        method("rome").config_for(tiny("gpt2"), ["layer=9"])
