from base64 import b64encode

import msgspec
import pytest

from invoker.errors import BadCredentials, Unauthenticated
from invoker.http.auth import Authenticator
from invoker.model import Namespace


class Store:
    def __init__(self):
        self.namespaces = {}

    def get_namespace_by_uuid(self, uuid):
        return self.namespaces.get(uuid)


def basic(text):
    return "Basic " + b64encode(text.encode()).decode()


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def authenticator(store):
    return Authenticator(store, b"pepper")


@pytest.fixture
def guest(store, authenticator):
    """(namespace, `uuid:key`)."""
    uuid, key = authenticator.make_key()
    store.namespaces[uuid] = Namespace(name="guest", uuid=uuid, key_hash=authenticator.hash_key(key), uid=1, gid=1, created_ms=0)
    return store.namespaces[uuid], f"{uuid}:{key}"


def test_a_made_key_opens_its_namespace(authenticator, guest):
    namespace, api_key = guest
    assert len(api_key.partition(":")[2]) == 64
    assert api_key.partition(":")[2].isalnum()
    identity = authenticator.identify(basic(api_key))
    assert identity.namespace is namespace
    assert identity.api_key == api_key


def test_the_scheme_is_taken_in_any_case(authenticator, guest):
    assert authenticator.identify(basic(guest[1]).replace("Basic", "bAsIc")).namespace.name == "guest"


@pytest.mark.parametrize("header", [None, "", "Basic", "Basic ", "Basic !!!", "Basic YWI", "Bearer YTpi", "YTpi", "Basic é"])
def test_what_is_no_basic_credentials_requires_authentication(authenticator, header):
    with pytest.raises(Unauthenticated, match="requires authentication") as refused:
        authenticator.identify(header)
    assert not isinstance(refused.value, BadCredentials)


@pytest.mark.parametrize("text", ["nobody:key", ":", "", "no colon", "\N{SNOWMAN}:x"])
def test_credentials_of_nobody_are_invalid(authenticator, text):
    header = basic(text) if text else basic(" ")
    with pytest.raises(BadCredentials, match="The supplied authentication is invalid"):
        authenticator.identify(header)


def test_a_wrong_key_is_invalid(authenticator, guest):
    with pytest.raises(BadCredentials):
        authenticator.identify(basic(guest[1][:-1]))


def test_the_stored_hash_is_no_key(authenticator, guest):
    namespace, _ = guest
    with pytest.raises(BadCredentials):
        authenticator.identify(basic(f"{namespace.uuid}:{namespace.key_hash}"))


def test_a_blocked_namespace_is_invalid_at_once_though_it_was_cached(authenticator, store, guest):
    namespace, api_key = guest
    authenticator.identify(basic(api_key))
    store.namespaces[namespace.uuid] = msgspec.structs.replace(namespace, blocked=True)
    with pytest.raises(BadCredentials):
        authenticator.identify(basic(api_key))


def test_a_changed_namespace_is_seen_by_the_next_request(authenticator, store, guest):
    namespace, api_key = guest
    authenticator.identify(basic(api_key))
    store.namespaces[namespace.uuid] = msgspec.structs.replace(namespace, uid=77)
    assert authenticator.identify(basic(api_key)).namespace.uid == 77


def test_a_deleted_namespace_is_invalid_though_it_was_cached(authenticator, store, guest):
    authenticator.identify(basic(guest[1]))
    store.namespaces.clear()
    with pytest.raises(BadCredentials):
        authenticator.identify(basic(guest[1]))


def test_a_second_request_gives_the_same_identity_without_hashing(authenticator, guest, monkeypatch):
    first = authenticator.identify(basic(guest[1]))
    monkeypatch.setattr(authenticator, "hash_key", None)
    assert authenticator.identify(basic(guest[1])) is first


def test_the_cache_is_bounded(authenticator, guest, monkeypatch):
    monkeypatch.setattr("invoker.http.auth._CACHE_ENTRIES", 3)
    for blanks in range(1, 8):
        authenticator.identify("Basic" + " " * blanks + basic(guest[1]).split()[1])
    assert len(authenticator._cache) == 3


def test_a_derived_key_opens_the_namespace_until_its_key_is_rotated(authenticator, store, guest):
    namespace, _ = guest
    derived = authenticator.derived_key(namespace)
    assert authenticator.identify(basic(derived)).namespace is namespace
    _, key = authenticator.make_key()
    store.namespaces[namespace.uuid] = msgspec.structs.replace(namespace, key_hash=authenticator.hash_key(key))
    with pytest.raises(BadCredentials):
        authenticator.identify(basic(derived))


def test_another_pepper_opens_nothing(store, authenticator, guest):
    other = Authenticator(store, b"other")
    for api_key in (guest[1], authenticator.derived_key(guest[0])):
        with pytest.raises(BadCredentials):
            other.identify(basic(api_key))
