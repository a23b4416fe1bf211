"""The one thread that touches the networks: it takes what clients want in turn, and of each only the newest.

A client that drags asks for more pictures than can be painted. Its newest pose waits in a slot of one; older ones are
forgotten. Clients take turns, so that one who drags does not keep another from opening a picture. The newest that a
client asks for is always answered, with its number: by what was asked for, or by an error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from autolink.errors import UserError
from autolink_apps.page.loading import loaded
from autolink_apps.page.messages import Export, Frame, Message, Neutral, Open, Pose, Watch, Work, frame

if TYPE_CHECKING:
    from PIL import Image

    from autolink_apps.page.camera import Actor
    from autolink_apps.page.performers import Performer, Scene

LOADED = 3
"""Models that are kept in memory."""
FAULT = "This did not work, by a fault of the program; the terminal shows more."
logger = logging.getLogger("autolink")


class Client:
    """One connection, as the desk sees it.

    Args:
        send: Takes an answer; called from the desk's thread.
        show: Takes a picture that it need not get; called from the desk's thread.
    """

    def __init__(self, send: Callable[[bytes], None], show: Callable[[bytes], None] | None = None) -> None:
        self.send, self.show = send, show or send
        self.opening: Open | None = None
        self.exports: deque[Export] = deque(maxlen=8)
        self.pose: Pose | None = None
        self.frame: Frame | None = None
        self.neutral = self.watches = False
        self.actor: Actor | None = None
        self.performer: Performer | None = None
        self.scene: Scene | None = None

    def want(self, message: Message) -> None:
        """Note what it asks for; a pose or a frame takes the place of the one that waits."""
        if isinstance(
            message, Open
        ):  # what was asked for before is of another picture; what comes later is of this one
            self.opening, self.pose, self.frame, self.neutral = message, None, None, False
            self.exports.clear()
        elif isinstance(message, Export):
            self.exports.append(message)
        elif isinstance(message, Frame):
            self.frame = message
        elif isinstance(message, Neutral):
            self.neutral = True
        elif isinstance(message, Watch):
            self.watches = True
        else:
            self.pose = message

    def take(self) -> Work | None:
        """What to do next for it."""
        if self.opening:
            opening, self.opening = self.opening, None
            return opening
        if self.exports:
            return self.exports.popleft()
        if self.frame:
            seen, self.frame = self.frame, None
            return seen
        wanted, self.pose = self.pose, None
        return wanted


class Desk:
    """Serves clients with pictures, in a thread of its own.

    Args:
        find: The picture of an upload by its id and moment, as RGB.
        source: Where the model of a name is, and a number that changes when it does; or a `UserError`.
        device: Where networks compute.
    """

    def __init__(
        self, find: Callable[[str, float], Image.Image], source: Callable[[str], tuple[str, int]], device: str = "auto"
    ) -> None:
        self.find, self.source, self.device = find, source, device
        self.models: OrderedDict[tuple[str, int], Performer] = OrderedDict()
        self.clients: deque[Client] = deque()
        self.woken = threading.Condition()
        self.stopped = False
        self.broken = ""
        self.thread = threading.Thread(target=self._run, name="desk", daemon=True)

    def start(self) -> None:
        """Begin: first of all, load what loading a model takes."""
        self.thread.start()

    def stop(self) -> None:
        """End after what is being done."""
        with self.woken:
            self.stopped = True
            self.woken.notify()
        self.thread.join(timeout=10)

    def join(self, client: Client) -> None:
        """Serve a client from now on."""
        with self.woken:
            self.clients.append(client)

    def leave(self, client: Client) -> None:
        """Forget a client, and all that it waits for."""
        with self.woken:
            self.clients.remove(client)

    def want(self, client: Client, message: Message) -> None:
        """Note what a client asks for."""
        with self.woken:
            client.want(message)
            self.woken.notify()

    def _run(self) -> None:
        try:
            self.answers, self.camera, performers = loaded("answers", "camera", "performers")
            self.load = performers.load
        except UserError as error:
            self.broken = str(error)
        while True:
            with self.woken:
                while (job := self._next()) is None and not self.stopped:
                    self.woken.wait()
                if self.stopped or job is None:
                    return
            client, message = job
            try:
                self._serve(client, message)
            except UserError as error:
                client.send(_error(message, str(error)))
            except Exception:
                logger.exception("the page could not be served")
                client.send(_error(message, FAULT))

    def _next(self) -> tuple[Client, Work] | None:
        """The next client in turn that wants something, and what."""
        for _ in range(len(self.clients)):
            client = self.clients[0]
            self.clients.rotate(-1)
            if (message := client.take()) is not None:
                return client, message
        return None

    def _serve(self, client: Client, message: Work) -> None:
        if self.broken:
            raise UserError(self.broken)
        if isinstance(message, Open):
            self._open(client, message)
            return
        if client.scene is None or client.performer is None:
            raise UserError("no picture is open; open one")
        if isinstance(message, Frame):
            self._act(client, client.performer, client.scene, message)
            return
        count = len(client.scene.points)
        if len(message.xy) != count:
            raise UserError(f"{len(message.xy)} points arrived, but {client.performer.name} has {count}")
        if isinstance(message, Export):
            client.send(self.answers.exported(client.performer, client.scene, message))
        else:
            client.send(self.answers.painted(client.performer, client.scene, message))

    def _act(self, client: Client, performer: Performer, scene: Scene, message: Frame) -> None:
        """Paint what a frame of the camera makes of the picture, for the client and for all who watch."""
        if performer.kind != "portrait":
            raise UserError(f"{performer.name} makes no pictures move; take a model that does")
        client.actor = client.actor or self.camera.Actor(performer.detector, scene)
        if client.neutral:
            client.neutral = False
            client.actor.take_as_neutral()
        acted = client.actor(self.camera.read_frame(message.jpeg), time.monotonic())
        answer = self.answers.acted(performer, scene, message, acted)
        client.send(answer)
        with self.woken:
            watching = [other for other in self.clients if other.watches]
        for other in watching:
            other.show(answer)

    def _open(self, client: Client, message: Open) -> None:
        client.scene = client.actor = None
        client.send(frame({"type": "loading", "n": message.n, "model": message.model}))
        client.performer = self._model(message.model)
        picture = None if message.file is None else self.find(message.file, message.moment)
        client.scene = client.performer.open(picture)
        client.send(self.answers.opened(client.performer, client.scene, message))

    def _model(self, name: str) -> Performer:
        source, state = self.source(name)
        if (name, state) not in self.models:
            self.models[name, state] = self.load(name, source, self.device)
        self.models.move_to_end((name, state))
        while len(self.models) > LOADED:
            self.models.popitem(last=False)
        return self.models[name, state]


def _error(message: Work, told: str) -> bytes:
    number = None if isinstance(message, Export) else message.n
    return frame({"type": "error", "about": type(message).__name__.lower(), "n": number, "message": told})
