from detrex_lite import cli


def test_the_report_is_written(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "total_loss": 2.0}\n')
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert "total loss" in (tmp_path / "page.html").read_text()


def test_a_missing_or_damaged_run_is_reported(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "is not the folder of a run: " in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("x\n{}\n")
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "line 1: expected a JSON object" in capsys.readouterr().err
