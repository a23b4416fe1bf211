"""The demonstration's inputs and its promise to stop loudly."""

import pytest

from autolink import UserError
from autolink_apps import demo


def test_a_failing_command_stops_the_demonstration(capsys):
    with pytest.raises(UserError, match="autolink failed"):
        demo.run("autolink", "info", "nothing-of-that-name")
    assert "$ autolink info nothing-of-that-name" in capsys.readouterr().out
