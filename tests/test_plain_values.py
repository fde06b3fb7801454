"""Options that are read without typer's validators are read the same."""

import math

import pytest
import typer
from hypothesis import given, settings, strategies as st

from predictor.cli.common.plain_values import read_plainly

VALUES = st.one_of(
    st.text(alphabet="0123456789.-+_ eEinfa", max_size=24),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.text(max_size=8),
)


def command(plainly: bool):
    """A command that returns its options."""

    def told(
        text: str = "a", whole: int = 1, number: float = 0.5, several: list[str] | None = None, upto: int = LIMITED
    ):
        return text, whole, number, several, upto

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(told)
    made = typer.main.get_command(app)
    return read_plainly(made) if plainly else made


LIMITED = typer.Option(3, min=2, max=5)
TYPER, OURS = command(plainly=False), command(plainly=True)


def told(program, arguments: list[str]) -> tuple:
    """What a command was given, or its error; numbers with their types."""
    try:
        values = program.main(args=arguments, prog_name="told", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return (error.format_message(),)
    return tuple((type(value), "nan" if value != value else value) for value in values)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["text", "whole", "number", "several", "upto"]), VALUES)
def test_a_value_is_read_as_typer_reads_it(option: str, value: str) -> None:
    arguments = [f"--{option}={value}"]
    assert told(OURS, arguments) == told(TYPER, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--several", "a", "--several", ""],
        ["--whole", "007"],
        ["--whole", "8.0"],
        ["--number", "1_000"],
        ["--number", str(math.pi)],
        ["--upto", "9"],
    ],
)
def test_so_are_these(arguments: list[str]) -> None:
    assert told(OURS, arguments) == told(TYPER, arguments)
