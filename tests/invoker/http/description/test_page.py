from invoker.http.description.operations import OPERATIONS
from invoker.http.description.page import build_page


def test_the_page_has_every_operation_and_the_title_that_tests_look_for():
    page = build_page("1<2")
    assert "<title>Swagger UI</title>" in page
    assert page.count("<details>") == len(OPERATIONS)
    assert "1&lt;2" in page
