"""A table without rich is that of rich, to the letter."""

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from predictor.cli.common import display
from predictor.cli.common.display import plain_table, show

CELLS = st.one_of(
    st.text(alphabet="ab 19.,()%–█░×µ…·é", max_size=12),
    st.sampled_from(["", "12.3 ms (10.0–20.0)", "日本", "a\nb", "a\tb", "[bold]x[/]", ":smile:", "x" * 90]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_plain_table_is_that_of_rich(data: st.DataObject, capsys: pytest.CaptureFixture[str]) -> None:
    columns = data.draw(st.lists(st.builds(str.__add__, st.sampled_from(["", ">"]), CELLS), min_size=1, max_size=5))
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(columns), max_size=len(columns)), max_size=4))
    title = data.draw(CELLS)
    show(columns, rows, title)
    ours = capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "plain_table", lambda *given: "")
        show(columns, rows, title)
    assert ours == capsys.readouterr().out


def test_a_table_that_fits_needs_no_rich() -> None:
    assert plain_table(["kind", ">GB", ""], [["weights", "16.1", "█"]], "Llama-3.1-8B · A100")
