"""Several actors behind one address: streams of one device, several devices, and a route over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Self, Unpack

from flashactor.actor.address import AskOptions, again_and_again, several
from flashactor.actor.batch import PendingReplies, collected
from flashactor.actor.closing import ActorGroup
from flashactor.actor.failures import retry
from flashactor.actor.messages import FlashAttnMsg, FlashAttnProps
from flashactor.actor.reply import AttentionReply, PendingReply
from flashactor.actor.router import Route, RouteKey, RouteKind, make_route
from flashactor.arrays import Device
from flashactor.errors import ActorStoppedError, FlashAttnError, OperandError, RequestError
from flashactor.executors.base import Executor
from flashactor.requests import AttentionRequest
from flashactor.service import FlashAttnActor
from flashactor.telemetry.bound_log import bound_log
from flashactor.types import is_count


class FlashAttnPool(ActorGroup):
    """Actors of one kind behind one address, one message to one of them.

    The order of messages is that of each actor; between actors there is none. The sticky route therefore
    keeps the order of the messages of one key, as long as its actor is up.

    ``ask`` and ``tell`` may be called from any thread and from coroutines. Use it as a context manager, or
    call ``stop``.

    Attributes:
        actors: the members, also those that are down.
    """

    def __init__(
        self, actors: Sequence[FlashAttnActor], route: RouteKind | str | Route = RouteKind.ROUND_ROBIN
    ) -> None:
        """Put running actors behind one address, which stops them; ``start`` makes new ones.

        Raises:
            RequestError: no actor, two of one label, or no such route.
        """
        self.actors = tuple(actors) if isinstance(actors, Iterable) else ()
        for actor in self.actors:
            if not isinstance(actor, FlashAttnActor):
                raise _start_error("actors", actor, "running actors")
        labels = [actor.props.label for actor in self.actors]
        if not labels or len(set(labels)) < len(labels):
            raise RequestError(
                field="actors",
                got=f"the labels {labels}",
                expected="at least one actor, each with a label of its own",
                remedy="use FlashAttnPool.start, which numbers them",
            )
        self._route = make_route(route)
        self._log = bound_log("pool", actors=labels)
        self._of_device: dict[Device, tuple[FlashAttnActor, ...]] = {}
        for actor in self.actors:
            device = Device("cuda", actor.props.device)
            self._of_device[device] = (*self._of_device.get(device, ()), actor)

    @classmethod
    def start(
        cls,
        props: FlashAttnProps | None = None,
        *,
        size: int = 2,
        devices: Iterable[int] | None = None,
        route: RouteKind | str | Route = RouteKind.ROUND_ROBIN,
        executor: str | Callable[[], Executor] | None = None,
    ) -> Self:
        """Start the actors of a pool, labelled ``f"{props.label}-{i}"``, device by device.

        Args:
            props: of each actor, but for the label, and for the device if ``devices`` are given.
            size: actors of each device. A kernel that fills the device gains nothing from a second stream.
            devices: as CUDA_VISIBLE_DEVICES numbers them; default: that of ``props``.
            route: ``"round_robin"``, ``"least_loaded"``, ``"sticky"``, or a Route of your own.
            executor: a name, or a function that makes an executor for each actor; as of FlashAttnActor.start.

        Raises:
            RequestError: the size is below 1, the devices or the route are none, or the executor is one that
                the actors would have to share.
            FlashAttnError: whatever FlashAttnActor.start raises; the actors that had started are stopped.
        """
        if props is not None and not isinstance(props, FlashAttnProps):
            raise _start_error("props", props, "a FlashAttnProps, or nothing")
        if not is_count(size, 1):
            raise _start_error("size", size, "an integer of at least 1, the actors of each device")
        if isinstance(executor, Executor):
            raise _start_error("executor", executor, "a name, or a function that makes one for each actor")
        chosen = FlashAttnProps() if props is None else props
        ordinals = [chosen.device] if devices is None else _distinct(devices)
        route = make_route(route)
        started: list[FlashAttnActor] = []
        try:
            for device in ordinals:
                for _ in range(size):
                    label = f"{chosen.label}-{len(started)}"
                    own = replace(chosen, label=label, device=device)
                    started.append(FlashAttnActor.start(own, executor))
            return cls(started, route)
        except BaseException:
            for actor in started:
                actor.stop()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether any actor takes messages."""
        return any(actor.is_alive for actor in self.actors)

    def ask(
        self, msg: FlashAttnMsg, *, key: RouteKey | None = None, **options: Unpack[AskOptions]
    ) -> PendingReply[AttentionReply]:
        """Send a message to the actor that the route chooses. Whatever goes wrong is raised by the reply.

        Args:
            msg: its arrays decide which actors can have it: those of their device, or any if they are all
                on the host.
            key: what the sticky route goes by.
            options: those of FlashAttnActor.ask.
        """
        try:
            actor = self._choose(msg, key)
        except FlashAttnError as error:
            refused: PendingReply[AttentionReply] = PendingReply()
            refused.settle(None, error.with_traceback(None))  # its frames have the message, and this reply
            return refused
        return actor.ask(msg, **options)

    def ask_many(
        self,
        msgs: Iterable[FlashAttnMsg],
        *,
        keys: Iterable[RouteKey] | None = None,
        return_errors: bool = False,
        **options: Unpack[AskOptions],
    ) -> PendingReplies:
        """Send each message where the route sends it; the replies come in the order of the messages.

        Args:
            msgs: messages.
            keys: one for each message, for the sticky route.
            return_errors: put errors into the list of replies, instead of raising the first one.
            options: those of FlashAttnActor.ask, for each message.

        Raises:
            RequestError: these are no messages, or there are not as many keys; nothing was sent.
        """
        messages = list(several(msgs))
        own: list[RouteKey | None] = [None] * len(messages)
        listed = isinstance(keys, Iterable)
        if keys is not None:
            own = list(keys) if listed else []
        if len(own) != len(messages) or not (keys is None or listed):
            raise RequestError(
                field="keys",
                got=f"{len(own)} keys for {len(messages)} messages" if listed else repr(keys),
                expected="one for each message",
                remedy="pass as many, or none",
            )
        options["after"] = again_and_again(options.get("after"))
        return collected(
            (self.ask(msg, key=key, **options) for msg, key in zip(messages, own, strict=True)),
            return_errors=return_errors,
        )

    def tell(self, msg: FlashAttnMsg, *, key: RouteKey | None = None, **options: Unpack[AskOptions]) -> None:
        """Send a message and forget it; failures are logged, and counted by the actor that had it."""
        try:
            actor = self._choose(msg, key)
        except FlashAttnError as error:
            self._log.warning("pool.told_nobody", error=type(error).__name__, reason=str(error))
            return
        actor.tell(msg, **options)

    def members(self) -> Sequence[FlashAttnActor]:
        """The actors, also those that are down."""
        return self.actors

    def _choose(self, msg: FlashAttnMsg, key: RouteKey | None) -> FlashAttnActor:
        candidates, where = self._able(msg)
        up = [actor for actor in candidates if actor.is_alive]
        if not up:
            raise _nobody_error(candidates, where)
        try:
            chosen = self._route.choose(up, key)
        except FlashAttnError:
            raise
        except Exception as error:  # of the caller's own route
            raise _route_error(f"{type(error).__name__}: {error}") from error
        if chosen not in up:
            raise _route_error(repr(chosen))
        return chosen

    def _able(self, msg: FlashAttnMsg) -> tuple[tuple[FlashAttnActor, ...], str]:
        """The actors that can have a message, and where they are."""
        if isinstance(getattr(msg, "request", None), AttentionRequest):  # else any actor refuses it
            for name, view in msg.request.arrays().items():
                if not view.on_host:
                    return self._on(name, view.device), f" of {view.device}"
        return self.actors, ""

    def _on(self, name: str, device: Device) -> tuple[FlashAttnActor, ...]:
        found = self._of_device.get(device)
        if found is None:
            raise OperandError(
                field=f"{name}.device",
                got=device,
                expected=" or ".join(map(str, self._of_device)),
                remedy=f"move the arrays, or start the pool with devices= that have {device} among them",
            )
        return found


def _distinct(devices: Iterable[int]) -> list[int]:
    """The ordinals of devices.

    Raises:
        RequestError: they are none, or one comes twice.
    """
    try:
        found = list(devices)
    except TypeError:
        found = []
    if not found or not all(is_count(device, 0) for device in found) or len(set(found)) < len(found):
        raise _start_error("devices", devices, "different ordinals of devices, or None for that of the props")
    return found


def _nobody_error(down: Sequence[FlashAttnActor], where: str) -> ActorStoppedError:
    """The answer to a message that no actor can take any more."""
    error = ActorStoppedError(
        field="actors",
        got=f"{len(down)} actors{where} that are down",
        expected="one that runs",
        remedy="start another pool with FlashAttnPool.start() and send it again: it was not computed",
    )
    error.__cause__ = next((actor.failure for actor in down if actor.failure is not None), None)
    return retry(error, True)


def _route_error(got: str) -> RequestError:
    return RequestError(
        field="route",
        got=got,
        expected="one of the members that choose() is given",
        remedy="correct the route",
    )


def _start_error(field: str, got: object, expected: str) -> RequestError:
    return RequestError(
        field=field,
        got=repr(got),
        expected=expected,
        remedy="write FlashAttnPool.start(FlashAttnProps(label=...), size=2, route='round_robin')",
    )
