from invoker.health import Check, Health


def test_healthy_is_when_all_checks_are_good():
    good, bad = Check(name="a", ok=True), Check(name="b", ok=False)
    assert Health().ok
    assert Health(checks=(good,)).ok
    assert not Health(checks=(good, bad)).ok
