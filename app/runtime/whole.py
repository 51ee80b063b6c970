"""Graphs that know no rows, as sessions of exactly one: every tensor has one axis more in front, which is 1."""

from app.errors import InvalidModel
from app.runtime.base import Session
from app.tensors import Tensors, TensorSpec, from_row, to_row


def by_rows(session: Session) -> Session:
    """The session itself where the first axis of every tensor varies, which is taken for rows; else all of it as a row.

    Raises:
        InvalidModel: the graph takes nothing.
    """
    if not session.inputs:
        session.close()
        raise InvalidModel("The graph has no input.")
    varies = all(spec.shape[:1] == (None,) for spec in (*session.inputs, *session.outputs))
    return session if varies else WholeSession(session)


class WholeSession:
    """One row is one run of the graph."""

    def __init__(self, session: Session) -> None:
        self.device = session.device
        self.inputs = tuple(map(_as_row, session.inputs))
        self.outputs = tuple(map(_as_row, session.outputs))
        self._session = session

    def __repr__(self) -> str:
        return f"<WholeSession of {self._session!r}>"

    def run(self, tensors: Tensors) -> Tensors:
        """Run one row; raises as the session does."""
        return to_row(self._session.run(from_row(tensors)))

    def close(self) -> None:
        """Close the session."""
        self._session.close()


def _as_row(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, (1, *spec.shape))
