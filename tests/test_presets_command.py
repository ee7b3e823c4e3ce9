"""`python -m pytest_autotune presets`: what it lists and shows, and what it refuses."""

import pytest

from pytest_autotune.__main__ import main
from pytest_autotune.presets.library import find_preset
from tests.documents import ROOT, commands


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # whatever runs the tests may say that it has fewer


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A directory `suites` with a preset of its own, in the current directory."""
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "chat.preset.yaml").write_text("description: Ours\nsource: us\nslo: {ttft.p99: 1s}\n")
    (tmp_path / "suites" / "mine.preset.yaml").write_text("parameters: {tp: [1, 2]}\n")
    monkeypatch.chdir(tmp_path)


def test_presets_are_listed_with_their_engine_description_and_source(capsys):
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    head, *lines = listed.splitlines()
    assert head.split() == ["name", "kind", "engine", "description", "source"]
    (quick,) = (line for line in lines if line.split()[0] == "vllm-quick")
    assert quick.split()[1:3] == ["parameters", "vllm"]
    (chat,) = (line for line in lines if line.split()[0] == "chat")
    assert chat.split()[1:3] == ["slo", "any"]
    assert find_preset("slo", "chat", beside=None).source in chat
    assert main(["presets", "list"]) == 0
    assert capsys.readouterr().out == listed


def test_one_is_shown_as_its_file_has_it(capsys):
    assert main(["presets", "show", "vllm-quick"]) == 0
    assert capsys.readouterr().out == find_preset("parameters", "vllm-quick", beside=None).path.read_text()


def test_those_beside_suites_are_listed_too_and_win(own, capsys):
    for arguments in (["--suites", "suites"], ["list", "--suites", "suites"]):
        assert main(["presets", *arguments]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["chat", "slo", "any", "Ours", "us"] in lines
        assert ["mine", "parameters", "any"] in lines
    assert main(["presets", "show", "chat", "--suites", "suites"]) == 0
    assert "description: Ours" in capsys.readouterr().out


def test_a_long_line_is_cut_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["presets"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "vllm-quik"], "'vllm-quik' is no preset (did you mean 'vllm-quick'?); there are "),
        (["--suites", "nowhere"], "--suites nowhere is not a directory"),
        (["--suites", "broken"], "broken/bad.preset.yaml:1: a preset has either parameters: or slo:"),
    ],
)
def test_what_is_not_there_or_wrong_is_told_in_one_line(own, capsys, tmp_path, arguments, message):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bad.preset.yaml").write_text("description: nothing\n")
    with pytest.raises(SystemExit) as ended:
        main(["presets", *arguments])
    output = capsys.readouterr()
    assert (ended.value.code, output.out) == (4, "")
    (line,) = output.err.splitlines()
    assert line.partition(": ")[2].startswith(message)


def test_the_commands_of_the_documentation_work(own, capsys):
    shown = [line for line in commands(ROOT / "docs" / "suites.md") if " presets" in line]
    assert len(shown) == 3
    for line in shown:
        assert main(line.split()[3:]) == 0
    assert capsys.readouterr().out
