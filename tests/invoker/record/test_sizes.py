from invoker.record.rows import TextRow
from invoker.record.sizes import Sizes


def row(namespace: str, text: str) -> TextRow:
    return TextRow("id", namespace, 0, text)


def test_what_is_written_is_added_to_what_was_there_in_bytes():
    sizes = Sizes()
    sizes.learn("logs", [("anna", 10), ("bob", 4)])
    sizes.add("logs", [row("anna", "x" * 5), row("bob", "\u00e4\u00f6"), row("carla", "y")])
    assert sizes.over("logs", 14) == {"anna": 15}
    assert sizes.over("logs", 7) == {"anna": 15, "bob": 8}
    assert sizes.over("logs", 0) == {"anna": 15, "bob": 8, "carla": 1}


def test_a_table_that_was_not_read_yet_is_not_counted_so_that_nothing_counts_twice():
    sizes = Sizes()
    sizes.add("logs", [row("anna", "xxx")])
    assert not sizes.knows("logs")
    sizes.learn("logs", [("anna", 3)])
    assert sizes.over("logs", 3) == {}


def test_what_the_database_says_goes_before_what_was_counted():
    sizes = Sizes()
    sizes.learn("records", [("anna", 100)])
    sizes.correct("records", "anna", 40)
    assert sizes.over("records", 50) == {}
    sizes.add("records", [row("anna", "x" * 11)])
    assert sizes.over("records", 50) == {"anna": 51}
