"""Problems that end a command of `dev` with a sentence instead of a traceback."""


class DevProblem(Exception):
    """A command cannot go on. The text is one or more full sentences for a person."""


class StartFailed(DevProblem):
    """A part of the system did not start. `log_tail` has the last lines of its log."""

    def __init__(self, sentence: str, log_tail: str = "") -> None:
        super().__init__(sentence)
        self.log_tail = log_tail

    def __str__(self) -> str:
        sentence = super().__str__()
        return f"{sentence} Its last lines:\n{self.log_tail}" if self.log_tail else sentence
