import pytest

ID = f"{1:032x}"


@pytest.fixture
def records(site, make_activation):
    """Four of guest's and one of another's, the newest last."""
    site.activations.records = [
        make_activation(),
        make_activation(path="guest/p/hello"),
        make_activation(),
        make_activation(),
        make_activation(namespace="other"),
    ]
    site.activations.logs = {ID: ["2024-01-01T00:00:00.000000Z    stdout: hi"]}
    return site.activations.records


async def test_a_record_is_read_with_its_logs(site, records):
    answered = await site.ask("GET", f"activations/{ID}")
    assert answered.status == 200
    assert answered.json["activationId"] == ID
    assert answered.json["logs"] == site.activations.logs[ID]
    assert '"result":{"big": 1.10e5, "text": "\\u00e9"}' in answered.text
    assert (await site.ask("GET", f"activations/{ID}/")).json == answered.json


async def test_logs_and_result_are_read_alone(site, records):
    assert (await site.ask("GET", f"activations/{ID}/logs")).json == {"logs": site.activations.logs[ID]}
    assert (await site.ask("GET", f"activations/{ID}/result")).json == {
        "result": {"big": 110000.0, "text": "é"},
        "status": "success",
        "success": True,
        "size": 33,
    }
    for path in ("logs/", "results", "x"):
        assert (await site.ask("GET", f"activations/{ID}/{path}")).status == 404


async def test_a_record_that_is_not_there_yet_is_404(site, records):
    for path in ("f" * 32, "f" * 32 + "/logs", "f" * 32 + "/result", records[4].activation_id):
        answered = await site.ask("GET", f"activations/{path}")
        assert answered.status == 404
        assert answered.error == "The requested resource does not exist."


@pytest.mark.parametrize(
    ("text", "words"), [("a" * 33, "length is 33 but must be 32."), ("g" * 32, "activation id is not valid")]
)
async def test_what_could_be_no_id_is_400(site, text, words):
    for path in (text, f"{text}/logs"):
        answered = await site.ask("GET", f"activations/{path}")
        assert answered.status == 400
        assert words in answered.error


async def test_the_list_is_newest_first_and_ones_own(site, records):
    listed = (await site.ask("GET", "activations")).json
    assert [each["activationId"] for each in listed] == [each.activation_id for each in reversed(records[:4])]
    assert listed[0]["statusCode"] == 0
    assert "response" not in listed[0]
    assert "logs" not in listed[0]


async def test_docs_are_whole_records(site, records):
    listed = (await site.ask("GET", "activations?docs=true&limit=0&skip=0")).json
    assert listed[3]["logs"] == site.activations.logs[ID]
    assert listed[3] == (await site.ask("GET", f"activations/{ID}")).json


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("limit=1", [4]),
        ("skip=3", [1]),
        ("name=hello", [4, 3, 1]),
        ("name=p/hello", [2]),
        ("name=", [4, 3, 2, 1]),
        ("since=2000&upto=3000", [3, 2]),
        ("since=-1", [4, 3, 2, 1]),
        ("upto=0", []),
    ],
)
async def test_filters(site, records, query, numbers):
    listed = (await site.ask("GET", f"activations?{query}")).json
    assert [int(each["activationId"], 16) for each in listed] == numbers


@pytest.mark.parametrize(("query", "count"), [("", 4), ("&name=hello", 3), ("&since=3000", 2), ("&skip=3", 1), ("&skip=9", 0)])
async def test_the_count_honours_the_filters(site, records, query, count):
    assert (await site.ask("GET", f"activations?count=true{query}")).json == {"activations": count}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("docs=true&count=true", "'docs' is not permitted with 'count'"),
        ("name=a/b/c", "'simple' name or 'package-name/simple' name"),
        ("since=x", "The query parameter 'since' was malformed"),
        ("limit=201", "The query parameter 'limit' was malformed"),
    ],
)
async def test_a_query_that_cannot_be_is_400(site, query, words):
    answered = await site.ask("GET", f"activations?{query}")
    assert answered.status == 400
    assert words in answered.error


async def test_another_namespace_is_forbidden(site, records):
    assert (await site.ask("GET", f"/api/v1/namespaces/other/activations/{records[4].activation_id}")).status == 403


async def test_ones_own_activation_is_cancelled(site):
    site.invoker.was = "running"
    answered = await site.ask("POST", f"/invokerd/v1/activations/{ID}/cancel")
    assert (answered.status, answered.json) == (200, {"activation_id": ID, "was": "running"})
    assert site.invoker.cancelled == [(ID, "guest")]


async def test_cancelling_what_has_ended_is_404(site):
    answered = await site.ask("POST", f"/invokerd/v1/activations/{ID}/cancel")
    assert answered.status == 404
    assert ID in answered.error
