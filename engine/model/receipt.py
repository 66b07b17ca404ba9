"""The answer a sender gets for a signal."""

from __future__ import annotations

from dataclasses import dataclass

from engine.model.enums import SignalState


@dataclass(frozen=True, slots=True)
class SignalReceipt:
    """What became of a signal when it came in; the same for every repeat of it."""

    signal_id: str
    source: str
    state: SignalState
    code: str = ""
    message: str = ""
    repeated: bool = False
    contradicted: bool = False

    def as_dict(self) -> dict[str, str]:
        """Return the JSON body of the answer."""
        body = {"signal_id": self.signal_id, "source": self.source, "state": self.state.value}
        if self.code:
            body |= {"code": self.code, "message": self.message}
        return body
