"""Scopes: what users may name, and what a name means."""

import pytest

from sedarchive.errors import UnknownNameError
from sedarchive.leaves import Leaf, resolve_scopes


def leaf(name, role, layer=0, shape=(2, 2)):
    return Leaf(name, name, None, layer, role, None, 4, shape, (role,), True)


LEAVES = [leaf("a.q", "query"), leaf("a.up", "up"), leaf("b.q", "query", None), leaf("a.norm", "norm", shape=None)]


@pytest.mark.parametrize("request_text", ["all=a*", "trunk=a*", "layer:0=a*", "=a*", "role:query=a*", "x y=a*"])
def test_a_scope_of_ones_own_cannot_take_the_name_of_another(request_text):
    with pytest.raises(UnknownNameError, match="name a scope"):
        resolve_scopes(request_text, LEAVES)


def test_scopes_hold_the_leaves_that_they_name():
    names = {
        scope: [one.name for one in resolve_scopes(scope, LEAVES)[0].leaves] for scope in ("all", "trunk", "mine=a.*")
    }
    assert names["all"] == ["a.q", "a.up", "b.q", "a.norm"]
    assert names["trunk"] == ["a.q", "a.up", "b.q"]
    assert names["mine=a.*"] == ["a.q", "a.up", "a.norm"]
    assert [scope.name for scope in resolve_scopes("mine=a.*", LEAVES)] == ["mine"]
