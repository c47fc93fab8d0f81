"""Pools whose actors are on ``Kernels``."""

from actor_tools import Kernels

from flashactor import FlashAttnPool, FlashAttnProps


class Makes:
    """A maker of held or other ``Kernels`` that remembers them, in the order of the pool's actors."""

    def __init__(self, *, held=False):
        self.kernels = []
        self._held = held

    def __call__(self):
        self.kernels.append(Kernels(held=self._held))
        return self.kernels[-1]


def pool_of(size, route="round_robin", make=None, *, devices=None, **props):
    """A pool of actors ``p-0``, ``p-1``, ... whose kernels end at once."""
    props = FlashAttnProps(**{"label": "p"} | props)
    return FlashAttnPool.start(props, size=size, route=route, devices=devices, executor=make or Makes())


def received(pool):
    """How many messages each actor was sent."""
    return [stats.received for stats in pool.stats().actors.values()]
