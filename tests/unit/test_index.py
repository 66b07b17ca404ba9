"""The eligibility index: every account is a candidate or has a code, and a change of accounts is seen at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.eligibility import rules
from engine.eligibility.index import EligibilityIndex
from tests.helpers import make_account, make_signal, make_state


def index_of(*states) -> EligibilityIndex:
    index = EligibilityIndex()
    index.replace(states)
    return index


def ids(states) -> list[str]:
    return [state.id for state in states]


def test_followers_come_in_the_order_of_the_accounts_and_all_others_have_a_code():
    index = index_of(
        make_state(make_account("B", strategies=["breakout"])),
        make_state(make_account("A")),
        make_state(make_account("C", strategies=["other"])),
        make_state(make_account("D", symbols=["MSFT"])),
    )
    chosen, skipped = index.candidates(make_signal())
    assert ids(chosen) == ["B", "A"]
    assert {account: code for account, (code, _) in skipped.items()} == {
        "C": "NOT_SUBSCRIBED",
        "D": "SYMBOL_NOT_ALLOWED",
    }


def test_the_audience_narrows_the_followers_and_widens_nothing():
    index = index_of(
        make_state(make_account("A", tags=["gold"])),
        make_state(make_account("B", tags=["iron"])),
        make_state(make_account("C", tags=["gold"], strategies=["other"])),
    )
    chosen, skipped = index.candidates(make_signal(tags=["gold"]))
    assert ids(chosen) == ["A"]
    assert {account: code for account, (code, _) in skipped.items()} == {
        "B": "NOT_IN_AUDIENCE",
        "C": "NOT_SUBSCRIBED",
    }
    # What one signal's audience left out is not left out of the next.
    chosen, skipped = index.candidates(make_signal("s-2"))
    assert ids(chosen) == ["A", "B"]
    assert list(skipped) == ["C"]


def test_a_change_of_accounts_is_seen_by_the_next_signal():
    alice = make_state(make_account("A", strategies=["other"]))
    index = index_of(alice)
    assert ids(index.candidates(make_signal())[0]) == []
    alice.update(make_account("A", strategies=["breakout"]))
    bob = make_state(make_account("B"))
    index.replace([alice, bob])
    assert ids(index.candidates(make_signal())[0]) == ["A", "B"]
    index.replace([bob])
    chosen, skipped = index.candidates(make_signal())
    assert (ids(chosen), skipped) == (["B"], {})


def test_whatever_words_producers_choose_memory_stays_bounded():
    index = index_of(make_state(make_account("A")))
    for number in range(10_500):
        assert len(index.candidates(make_signal(strategy=f"s{number}"))[0]) == 1
    assert len(index._routes) <= 10_001


words = st.sampled_from(["s1", "s2", "*"])
symbols = st.sampled_from(["AAPL", "MSFT", "*"])
tags = st.sampled_from(["gold", "iron"])
accounts = st.builds(
    lambda strategies, symbols, tags: {"strategies": strategies, "symbols": symbols, "tags": tags},
    st.lists(words, max_size=2),
    st.lists(symbols, max_size=2),
    st.lists(tags, max_size=2),
)
audiences = st.fixed_dictionaries(
    {},
    optional={
        "accounts": st.lists(st.sampled_from(["0", "1", "2", "9"])),
        "tags": st.lists(tags),
    },
)


@settings(max_examples=100)
@given(
    documents=st.lists(accounts, max_size=4),
    signals=st.lists(
        st.tuples(st.sampled_from(["s1", "s2"]), st.sampled_from(["AAPL", "MSFT"]), audiences),
        max_size=4,
    ),
)
def test_the_index_says_what_the_rules_say(documents, signals):
    states = [make_state(make_account(str(n), **d)) for n, d in enumerate(documents)]
    index = index_of(*states)
    for strategy, symbol, audience in signals:
        signal = make_signal(strategy=strategy, symbol=symbol, **audience)
        reasons = {s.id: rules.subscribed(s, signal) or rules.addressed(s, signal) for s in states}
        chosen, skipped = index.candidates(signal)
        assert ids(chosen) == [account for account, reason in reasons.items() if reason is None]
        assert skipped == {a: reason for a, reason in reasons.items() if reason is not None}
