"""What ends a command of `dev`: a sentence for the person at the terminal, never a traceback."""


class DevProblem(Exception):
    """The development system cannot do what was asked. Its text is one or more full sentences."""


class StartFailed(DevProblem):
    """A part of the system did not start. `log_tail` holds the last lines it wrote."""

    def __init__(self, sentence: str, log_tail: str = "") -> None:
        super().__init__(sentence)
        self.log_tail = log_tail

    def __str__(self) -> str:
        sentence = super().__str__()
        return f"{sentence} Its last lines:\n{self.log_tail}" if self.log_tail else sentence
