"""What a session does for each message of the page."""

from collections.abc import Callable
from typing import Any, NamedTuple

from worldgym.errors import WorldGymError
from worldgym.play.protocol import Choose, Fork, Message, Record, Reset, Rewind, Step, error_message
from worldgym.play.session import PlaySession, View


class Answer(NamedTuple):
    """Text messages that come first, and the view; None after an error."""

    messages: list[dict[str, Any]]
    view: View | None


def answer(session: PlaySession, message: Message | bytes, stopped: Callable[[], bool] = bool) -> Answer:
    """Do what a message asks for. Errors that are raised on purpose become messages.

    Args:
        session: what is played.
        message: of the page, or the bytes of a picture.
        stopped: whether the person has taken over from the driver of this step.
    """
    try:
        files = _do(session, message, stopped)
    except WorldGymError as error:
        return Answer([error_message(error)], None)
    shown = [str(file.relative_to(session.settings.out)) for file in files]
    saved = [{"type": "saved", "files": shown, "folder": str(session.settings.out)}] if files else []
    view = session.view()
    if isinstance(message, Choose):  # the page has not seen the steps of the chosen future one by one
        view = View(view.pictures, {**view.values, "history": session.history()})
    return Answer(saved, view)


def _do(session: PlaySession, message: Message | bytes, stopped: Callable[[], bool]) -> list[Any]:
    if isinstance(message, bytes):
        return list(session.picture(message))
    if isinstance(message, Reset):
        return list(session.reset(message.task, message.seed, message.start))
    if isinstance(message, Record):
        return list(session.record(message.on))
    if isinstance(message, Step):
        session.step(message.action, message.driver, stopped)
    elif isinstance(message, Rewind):
        session.rewind(message.steps)
    elif isinstance(message, Fork):
        session.fork(message.by)
    elif isinstance(message, Choose):
        session.choose(message.future)
    return []
