"""What pyproject.toml can't say: the wheel carries the collection and what `magi init` writes a project from, and the
long description has no links into a repository that its readers are not in."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
REPOSITORY = "https://github.com/magi-models/magi.models"
CARRIED = ("collections/ansible_collections/magi/models", "profiles", "inventories/local", "ansible.cfg")
LEFT_OUT = shutil.ignore_patterns("tests", "changelogs", "__pycache__", ".*")


class BuildPy(build_py):
    """Builds the package, and puts beside its modules what it finds in a checkout two folders above them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, "magi")
        for name in CARRIED:
            source, target = ROOT / name, package / "carried" / name
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build, with files that are gone since
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=LEFT_OUT)
            else:
                shutil.copyfile(source, target)


def long_description() -> str:
    """Return the README with each link into the repository as an address."""

    def absolute(link: re.Match[str]) -> str:
        image, text, path = link.groups()
        host = "https://raw.githubusercontent.com/magi-models/magi.models/main" if image else f"{REPOSITORY}/blob/main"
        return f"{image}[{text}]({host}/{path})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)]+)\)", absolute, (ROOT / "README.md").read_text(encoding="utf-8"))


setup(
    cmdclass={"build_py": BuildPy},
    long_description=long_description(),
    long_description_content_type="text/markdown",
)
