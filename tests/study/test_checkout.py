import subprocess

from vtp_eqx.study import checkout


def git(folder, *arguments):
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True)


def test_a_checkout_is_dirty_where_its_code_was_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    asked = checkout.commit.__wrapped__  # anew, each time
    assert asked() == "unknown"
    (tmp_path / "vtp_eqx").mkdir()
    (tmp_path / "vtp_eqx" / "code.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "Begin")
    name = asked()
    assert len(name) >= 7
    (tmp_path / "report.md").write_text("2")
    assert asked() == name
    (tmp_path / "vtp_eqx" / "code.py").write_text("3")
    assert asked() == f"{name}-dirty"
