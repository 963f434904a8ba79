import pytest

from devices.topics import Topics, is_id


@pytest.mark.parametrize("text", ["a", "Z9_-", "0", "x" * 64])
def test_ids(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize("text", ["", "x" * 65, "a/b", "a b", "a+", "#", "é", "a\n", "a.b", "٣", "a\x00"])
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(ValueError, match="expected 1 to 64"):
        Topics(text)
    with pytest.raises(ValueError, match="expected 1 to 64"):
        Topics("gw1").receipt(text)


@pytest.mark.parametrize("leaf", ["usage", "earn", "open", "close", "state"])
def test_what_a_device_sends_is_parsed(leaf: str) -> None:
    topics = Topics("gw1")
    assert topics.parse(f"mp/1/gw1/meter-17/{leaf}") == ("meter-17", leaf)
    assert topics.topic("meter-17", leaf) == f"mp/1/gw1/meter-17/{leaf}"
    assert f"mp/1/gw1/+/{leaf}" in topics.subscriptions
    assert len(topics.subscriptions) == 5


@pytest.mark.parametrize(
    "topic",
    [
        "mp/1/gw1/offer",
        "mp/1/gw1/gateway",
        "mp/1/gw1/meter/receipt",
        "mp/1/gw1/meter/usage/x",
        "mp/1/gw1/meter/Usage",
        "mp/1/gw1//usage",
        "mp/1/gw1/a b/usage",
        "mp/1/gw1/" + "x" * 65 + "/usage",
        "mp/1/gw10/meter/usage",
        "mp/2/gw1/meter/usage",
        "mp/1/gw1/meter",
        "",
    ],
)
def test_other_topics_name_no_device(topic: str) -> None:
    assert Topics("gw1").parse(topic) is None


def test_the_gateways_own_topics() -> None:
    topics = Topics("gw1")
    assert topics.offer == "mp/1/gw1/offer"
    assert topics.gateway_state == "mp/1/gw1/gateway"
    assert topics.receipt("m") == "mp/1/gw1/m/receipt"
