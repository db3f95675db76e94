"""What of the catalog the daemon carries out itself."""

import msgspec
import pytest
from invoker_site import ANNA

from invoker.catalog.builtins import catalog_builtins
from invoker.model import Identity

HOST = "https://node.example"


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ({}, HOST),
        ({"path": "/"}, HOST),
        ({"path": "a"}, f"{HOST}/api/v1/web/anna/default/a"),
        ({"path": "p/a b", "ext": ".json"}, f"{HOST}/api/v1/web/anna/p/a%20b.json"),
        ({"path": "p/a", "ext": "http", "web": False}, f"{HOST}/api/v1/namespaces/anna/actions/p/a"),
        ({"path": "t", "trigger": True}, f"{HOST}/api/v1/namespaces/anna/triggers/t"),
        ({"path": 3, "ext": None}, f"{HOST}/api/v1/web/anna/default/3"),
    ],
)
async def test_hosturl_tells_where_clients_find_things(arguments, url):
    builtin = catalog_builtins(lambda: HOST)["whisk.system/utils/hosturl"]
    told = await builtin(Identity(namespace=ANNA, api_key="u:k"), msgspec.Raw(msgspec.json.encode(arguments)))
    assert msgspec.json.decode(told) == {"url": url}
