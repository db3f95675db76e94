import json

import msgspec
import pytest

from invoker.model import Parameter
from invoker.vault import KEY_BYTES, ParameterUnreadable, SealedElsewhere, Vault

VAULT = Vault(b"k" * KEY_BYTES)
ALL = Vault(b"k" * KEY_BYTES, seals_all=lambda: True)
OTHER = Vault(b"o" * KEY_BYTES)


def secret(value=b'"hush"', **fields):
    return Parameter(key="s", value=msgspec.Raw(value), **({"encryption": "aes-256"} | fields))


@pytest.mark.parametrize(
    "value",
    [b'"hush"', b"1.10e5", b'{"a":[null]}', b"false", b'""', '"é"'.encode(), pytest.param(b'"' + b"x" * 10**6 + b'"', id="long")],
)
def test_what_was_sealed_opens_to_the_same_text(value):
    (sealed,) = VAULT.seal("guest", (secret(value, init=True),))
    assert (sealed.encryption, sealed.init) == ("aes-256", True)
    assert value not in bytes(sealed.value)
    assert isinstance(json.loads(bytes(sealed.value)), str)
    (opened,) = VAULT.open((sealed,))
    assert (bytes(opened.value), opened.encryption, opened.init) == (value, None, True)


def test_the_same_value_is_never_sealed_to_the_same_text():
    assert VAULT.seal("guest", (secret(),)) != VAULT.seal("guest", (secret(),))


def test_only_what_asks_for_it_is_sealed_unless_the_site_wants_all():
    plain = (secret(encryption=None),)
    assert VAULT.seal("guest", plain) == plain
    assert VAULT.open(plain) is plain
    assert ALL.seal("guest", plain)[0].encryption == "aes-256"


def test_null_stays_null_for_it_is_no_secret():
    unset = (secret(b"null"),)
    assert ALL.seal("guest", unset) == unset
    assert bytes(VAULT.open(unset)[0].value) == b"null"


@pytest.mark.parametrize("scheme", ["noop", "aes-128", "rot13"])
def test_other_schemes_pass_as_they_came(scheme):
    foreign = (secret(encryption=scheme),)
    assert ALL.seal("guest", foreign) == foreign
    assert ALL.open(foreign) == foreign


def test_what_is_sealed_may_be_sent_back_within_its_namespace_only():
    sealed = VAULT.seal("guest", (secret(),))
    assert VAULT.seal("guest", sealed) == ALL.seal("guest", sealed) == sealed
    with pytest.raises(SealedElsewhere, match="'s' was encrypted with another key, or for another namespace"):
        VAULT.seal("other", sealed)
    with pytest.raises(SealedElsewhere):
        OTHER.seal("guest", sealed)


def test_a_sealed_value_cannot_be_given_to_another_namespace_nor_changed():
    (sealed,) = VAULT.seal("guest", (secret(),))
    text = json.loads(bytes(sealed.value))
    for forged in (
        text.replace(":guest:", ":other:"),
        text[:-4] + "AAAA",
        text[:-1],
        f"{text}x",
        "invokerd:1:guest:",
        "invokerd:1:",
    ):
        parameter = msgspec.structs.replace(sealed, value=msgspec.Raw(json.dumps(forged).encode()))
        with pytest.raises(SealedElsewhere):
            VAULT.seal("other", (parameter,))
        with pytest.raises(ParameterUnreadable, match="'s' cannot be opened"):
            VAULT.open((parameter,))


def test_with_another_key_nothing_opens():
    with pytest.raises(ParameterUnreadable):
        OTHER.open(VAULT.seal("guest", (secret(),)))


@pytest.mark.parametrize(
    "payload", [b'{"s":"hush","n":1.10e400}', b"{}", pytest.param(b'{"a":"' + b"x" * 10**6 + b'"}', id="long")]
)
def test_a_sealed_payload_opens_to_the_same_text(payload):
    sealed = VAULT.seal_payload("guest", msgspec.Raw(payload))
    assert isinstance(json.loads(bytes(sealed)), str)
    assert payload not in bytes(sealed)
    assert bytes(VAULT.open_payload(sealed)) == payload


@pytest.mark.parametrize("payload", [b"{}", b'{"a":"invokerd:1:"}', b"[1]"])
def test_a_payload_that_was_never_sealed_passes(payload):
    raw = msgspec.Raw(payload)
    assert VAULT.open_payload(raw) is raw


def test_a_payload_that_was_sealed_with_another_key_says_so():
    with pytest.raises(ParameterUnreadable, match="were encrypted with another key; call it again"):
        VAULT.open_payload(OTHER.seal_payload("guest", msgspec.Raw(b"{}")))


def test_a_namespace_is_shown_what_is_its_own_and_may_send_it_back():
    sealed = VAULT.seal("guest", (secret(init=True), secret(encryption=None)))
    first, second = VAULT.show("guest", sealed)
    assert (bytes(first.value), first.encryption, first.init) == (b'"hush"', "aes-256", True)
    assert second == secret(encryption=None)
    again = VAULT.seal("guest", (first, second))
    assert [bytes(each.value) for each in VAULT.open(again)] == [b'"hush"', b'"hush"']
    assert again[0].encryption == "aes-256"
    assert b"hush" not in bytes(again[0].value)


def test_others_are_shown_the_sealed_text_and_so_is_who_has_lost_the_key():
    sealed = VAULT.seal("guest", (secret(),))
    assert VAULT.show("other", sealed) == sealed
    assert OTHER.show("guest", sealed) == sealed
    unset = (secret(b"null"), secret(encryption="rot13"))
    assert VAULT.show("guest", unset) == unset


@pytest.mark.parametrize(("sent", "kept"), [(None, "aes-256"), ("aes-256", "aes-256"), ("noop", "noop")])
def test_what_was_sealed_is_sealed_again_unless_another_scheme_is_sent(sent, kept):
    replaced = VAULT.seal("guest", (secret(),))
    (written,) = VAULT.seal("guest", (secret(b'"new"', encryption=sent),), replaced=replaced)
    assert written.encryption == kept
    assert (b"new" in bytes(written.value)) == (kept == "noop")
    (beside,) = VAULT.seal("guest", (Parameter(key="other", value=msgspec.Raw(b"1")),), replaced=replaced)
    assert beside.encryption is None
