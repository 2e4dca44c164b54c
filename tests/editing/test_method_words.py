"""What is said of a method: of every one that is listed, and so that what is said of its settings can be typed."""

from typing import get_args

import pytest

from editing.method import Kind, MethodSpec, method, method_names
from editing.pages.methods import about, described, in_json, listing, method_table
from factscope.settings import configured, written


@pytest.mark.parametrize("name", method_names())
def test_each_method_says_what_it_is_and_is_not_for_and_its_settings_can_be_typed(name):
    spec = method(name)
    assert [key for key, _ in about(name)] == ["what it does", "good for", "not for"]
    for clause in (spec.about, spec.good_for, spec.not_for, spec.needs):
        assert clause == clause.strip(" .\n"), "a clause, and no sentence"
    config = spec.Config()
    assert configured(spec.Config, [f"{key}={value}" for key, value in written(config).items()]) == config
    assert described(spec)[-1].strip() == "{}={}".format(*list(written(config).items())[-1])
    assert in_json(spec)["settings"] == written(config)


def test_needs_name_moments_and_training_of_those_that_want_them():
    assert [method(name).all_needs for name in ("rome", "grace", "mend")] == [
        "second moments", "nothing", "edit train mend, once for a model",
    ]  # fmt: skip
    assert method("crispedit").all_needs == "second moments; slopes of the moments' text"
    assert all(("edit train" in method(name).all_needs) == (method(name).train is not None) for name in method_names())


def test_every_method_is_listed_once_under_its_kind():
    lines = listing([method(name) for name in method_names()])
    heads = [f"{kind.capitalize()}:" for kind in get_args(Kind)]
    assert [line for line in lines if line in heads] == heads
    assert sorted(line.split()[0] for line in lines if line not in heads) == sorted(method_names())
    assert listing([method("ice")])[0] == "In context:"
    assert {name: method(name).kind for name in ("rome", "remedi", "serac")} == dict(
        zip(("rome", "remedi", "serac"), get_args(Kind), strict=True)
    )


def test_what_is_not_known_is_left_out():
    """A method of a package that is gone has no words, and one whose author gave none has what there is."""
    assert about("gone") == ()
    assert method_table(["gone"]) == ()
    (table,) = method_table(["gone", "rome", "rome"])
    assert [row[0] for row in table.rows] == ["rome"]
    rome = method("rome")
    bare = MethodSpec("rome", "a clause", rome.Config, rome.compute)
    assert [line.split("  ")[0] for line in described(bare)[:3]] == ["what it does", "its edits are", "needs"]
    assert described(bare)[2].endswith(" nothing")
