"""How fast large bodies of REST are taken in, on clocks that the test turns."""

from headrace_server.transports.asgi import Intake


class Clocks:
    """The time, and the CPU that has been used."""

    def __init__(self) -> None:
        self.wall = 10.0
        self.used = 3.0

    def pass_by(self, seconds: float, cores: float) -> None:
        self.wall += seconds
        self.used += seconds * cores


def test_a_process_that_does_little_else_takes_in_bodies_fast() -> None:
    clocks = Clocks()
    intake = Intake(lambda: clocks.wall, lambda: clocks.used)
    clocks.pass_by(0.001, cores=0.3)

    assert intake.pause() == Intake.PAUSE


def test_one_that_answers_others_takes_them_in_slowly_for_as_long_as_it_does() -> None:
    clocks = Clocks()
    intake = Intake(lambda: clocks.wall, lambda: clocks.used)
    pauses = []
    for cores in (1.3, 1.3, 0.2, 0.6):
        clocks.pass_by(0.003, cores)
        pauses.append(intake.pause())

    assert pauses == [Intake.BUSY_PAUSE, Intake.BUSY_PAUSE, Intake.PAUSE, Intake.BUSY_PAUSE]


def test_what_was_long_ago_says_nothing_of_now() -> None:
    clocks = Clocks()
    intake = Intake(lambda: clocks.wall, lambda: clocks.used)
    clocks.pass_by(1, cores=2)
    clocks.pass_by(3600, cores=0)

    assert intake.pause() == Intake.PAUSE
