"""requirements*.txt: torch is pinned and first, all others have both bounds, at which versions.py runs the tests."""

import pytest
import versions


def test_every_package_has_both_bounds():
    known = versions.bounds()
    assert list(known)[0] == "torch" and known["torch"] == ("2.13.0", "==2.13.0")
    assert {"numpy", "transformers", "ruff", "math-verify[antlr4_13_2]"} < set(known)
    for package, (low, specifier) in known.items():
        if specifier.startswith(">="):
            first, beyond = ([int(part) for part in text.split(".")] for text in (low, specifier.partition("<")[2]))
            assert first < beyond, package


@pytest.mark.parametrize("line", ["numpy", "numpy>=2.0", "numpy<3", "numpy>=2.0,<=3", "git+https://x/y"])
def test_a_line_without_both_bounds_is_refused(line, tmp_path):
    (tmp_path / "requirements.txt").write_text(f"torch==2.13.0\n{line}\n")
    (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\n")
    with pytest.raises(ValueError, match="is neither package==version nor package>=version,<version"):
        versions.bounds(tmp_path)
