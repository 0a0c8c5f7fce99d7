r"""One submission, and one exercise of it, as the gradebook has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    r"""One exercise of one submission. points: the grader's; given: what counts, a person's where there is one."""

    id: str
    points: float
    of: float
    status: str
    message: str
    given: float
    right: int = 0
    cases: int = 0
    copies: int = 0
    comment: str = ""
    manual: bool = False


@dataclass(frozen=True)
class Entry:
    r"""One submission in the gradebook. `counts` is False while it has no mark, which is not a mark of 0."""

    id: str
    notebook: str
    status: str
    message: str
    parts: tuple[Part, ...]
    person: dict[str, str]
    submitted: str | None = None
    where: str | None = None
    ran: str = ""
    box: str = ""
    unsafe: bool = False
    counts: bool = True

    @property
    def points(self) -> float | None:
        r"""By the grader alone; None while there is no mark."""
        return sum(p.points for p in self.parts) if self.counts else None

    @property
    def total(self) -> float | None:
        r"""With what people gave; None while there is no mark."""
        return sum(p.given for p in self.parts) if self.counts else None

    @property
    def of(self) -> float:
        r"""Points there are."""
        return sum(p.of for p in self.parts)

    @property
    def name(self) -> str:
        r"""As the roster has it, else the id."""
        person = self.person
        full = " ".join(filter(None, (person.get("first_name", ""), person.get("last_name", ""))))
        return person.get("name") or full or self.id
