"""The history of restarts against a list of all failures."""

from campaign_machine import SETTINGS
from hypothesis import given
from hypothesis import strategies as st

from flashactor.actor.restarts import RestartHistory, RestartPolicy

POLICIES = st.builds(
    RestartPolicy,
    max_restarts=st.integers(0, 4),
    within=st.integers(1, 16).map(float),
    backoff=st.sampled_from((0.0, 0.5, 1.0)),
    max_backoff=st.sampled_from((0.0, 1.0, 3.0)),
)


@SETTINGS
@given(policy=POLICIES, pauses=st.lists(st.integers(0, 6), max_size=40))
def test_as_many_restarts_as_the_policy_allows(policy, pauses):
    history, now, restarts = RestartHistory(policy), 0.0, []
    for pause in pauses:
        now += pause
        counted = [at for at in restarts if at > now - policy.within]
        delay = history.next_delay(now)
        if len(counted) >= policy.max_restarts:
            assert delay is None
        else:
            assert delay == min(policy.backoff * 2 ** len(counted), policy.max_backoff)
            restarts.append(now)
