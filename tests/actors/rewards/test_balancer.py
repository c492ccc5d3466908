from hypothesis import given
from hypothesis import strategies as st

from actors.rewards.balancer import Balancer

EVENTS = st.lists(st.tuples(st.sampled_from(["ask", "succeed", "fail", "busy"]), st.integers(0, 9), st.floats(0, 3)), max_size=60)


@given(EVENTS)
def test_the_server_with_the_least_to_do_of_those_that_are_well(events: list[tuple[str, int, float]]):
    balancer, now_s = Balancer(["a", "b", "c"]), 0.0
    flying = []
    for what, number, passed_s in events:
        now_s += passed_s
        if what == "ask":
            fit = [server for server in balancer.servers if server.admits(now_s)]
            server = balancer.pick(now_s)
            assert (server is None) == (not fit)
            pause_s = balancer.pause_s(now_s)
            assert (pause_s == 0) == bool(fit)
            if server is None:
                if pause_s is not None:
                    assert any(one.admits(now_s + pause_s + 1e-6) for one in balancer.servers)
                    assert not any(one.admits(now_s + pause_s * 0.99 - 1e-6) for one in balancer.servers)
                continue
            assert server.outstanding_items == min(one.outstanding_items for one in fit)
            server.outstanding_items += number
            flying.append((server, number, server.breaker.begin(now_s)))
        elif flying:
            server, items, begun = flying.pop(number % len(flying))
            server.outstanding_items -= items
            if what == "fail":
                server.breaker.fail(begun, now_s, 0.0, decisive=True)
            else:
                server.breaker.succeed(begun)
                server.busy_until_s = now_s + passed_s if what == "busy" else server.busy_until_s
        assert sum(balancer.states(now_s).values()) == 3


def test_idle_servers_take_turns():
    balancer = Balancer(["a", "b", "c"])
    assert [server.url for _ in range(4) if (server := balancer.pick(0.0))] == ["a", "b", "c", "a"]


def test_a_server_that_just_failed_goes_last():
    balancer = Balancer(["a", "b"])
    first = balancer.servers[0]
    first.breaker.fail(first.breaker.begin(0.0), 0.0, 0.0, decisive=False)
    assert [server.url for _ in range(3) if (server := balancer.pick(0.0))] == ["b", "b", "b"]


def test_servers_that_stay_keep_their_standing():
    balancer = Balancer(["a", "b"])
    first = balancer.servers[0]
    first.breaker.fail(first.breaker.begin(0.0), 0.0, 0.0, decisive=True)
    balancer.use(["c", "a"])
    assert [server.url for server in balancer.servers] == ["c", "a"]
    assert balancer.states(0.5) == {"closed": 1, "open": 1, "half_open": 0}
    assert balancer.states(2.0) == {"closed": 1, "open": 0, "half_open": 1}
