# Copyright: The magi.models maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are not yet, or no longer, GGUF files, by their names."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.magi.models.plugins.module_utils._models.remains import remains_of

NAMES = {
    "partial_download": [
        *(
            "x.gguf.part",
            "x.gguf.partial",
            "x.gguf.incomplete",
            "x.gguf.crdownload",
            "x.gguf.tmp",
            "x.gguf.downloadInProgress",
        ),
        *("x.gguf(1).part", "x.gguf?download=true.part", "~syncthing~x.gguf"),
        *("x.gguf.!qB", "x.gguf.!ut", "x.gguf.3f9a01bc.partial", "X.GGUF.PART", "x.gguf.filepart", "x.gguf.opdownload"),
        *(
            "incomplete-x.gguf",
            "downloading_x.gguf.part",
            ".syncthing.x.gguf.tmp",
            "~syncthing~x.gguf.tmp",
            ".x.gguf.Ab3dE6",
        ),
    ],
    "piece": [
        *("x.gguf.part1of2", "x.gguf.part2of2", "x.gguf-split-a", "x.gguf-split-b", "x.gguf.001", "x.gguf.partaa"),
        *(
            "x.gguf.part-ab",
            "x.gguf.part3",
            "x.gguf.aa",
            "x.gguf.a",
            "x.gguf_part_12",
            "x.gguf.01of20",
            "x.gguf.chunk0",
        ),
        *("x.gguf-00001-of-00003", "x.part1of2.gguf", "x.part2of2.gguf", "x-split-3-of-12.gguf"),
    ],
    "archive": [
        *("x.gguf.zip", "x.gguf.gz", "x.gguf.tar.zst", "x.gguf.7z", "x.gguf.7z.001"),
        *("x.gguf.part1.rar", "x.gguf.r00", "x.gguf.z01", "x.gguf.zip.001"),
    ],
    "misnamed": ["x.gguf?download=true", "x.gguf@download=true", "x.gguf%3Fdownload=true", "x.gguf?a=b&c=d.e"],
    "web_page": ["x.gguf.html", "x.gguf.HTM"],
    "put_aside": [
        *("x.gguf.bak", "x.gguf.old", "x.gguf.disabled", "x.gguf~", "x.gguf.1"),
        *("x.gguf (1)", "x.gguf(2)", "x.gguf - Copy", "x.gguf copy", "x.gguf.txt"),
    ],
    "unconverted": ["x.safetensors", "x.bin", "x-00001-of-00003.safetensors", "X.PT", "x.pth"],
    None: [
        "x.gguf",
        "README.md",
        "x.gguf.md5",
        "x.gguf.sha256",
        "x.gguf.json",
        "x.gguf.lock",
        "x.gguf.metadata",
        "x.part",
        *("x-00002-of-00003.safetensors", "training_args.bin", "optimizer.pt", "adapter_model.bin", "tokenizer.bin"),
        *(".bin", "x.part1of1.gguf", "x-part2.gguf", "x.safetensors.index.json"),
    ],
}


@pytest.mark.parametrize(("code", "name"), [(code, name) for code in NAMES for name in NAMES[code]])
def test_what_a_file_is_by_its_name(code, name):
    found = remains_of(name)
    assert (found and found.code) == code
    if found:
        assert found.name.lower() == "x"
        assert ";" in found.what


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("x.part2of2.gguf", "cat x.part[0-9]*of2.gguf > x.gguf"),
        ("x.gguf-00001-of-00003", "cat x.gguf-[0-9]* > x.gguf"),
        ("x.gguf.part1of2", "cat x.gguf.part[0-9]* > x.gguf"),
        ("x.gguf-split-b", "cat x.gguf-split-* > x.gguf"),
        ("a b.gguf.001", "cat 'a b.gguf.'[0-9]* > 'a b.gguf'"),
        ("-x.gguf.part01", "cat ./-x.gguf.part[0-9]* > ./-x.gguf"),
        ("x.gguf.part3", "printf '%s\\0' x.gguf.part[0-9]* | sort -zV | xargs -0 cat > x.gguf"),
    ],
)
def test_pieces_are_joined_by_a_command(name, command):
    assert remains_of(name).what.endswith(f"({command})")


@pytest.mark.parametrize(
    "pieces",
    [
        [f"a b_part-{number}-of-12.gguf" for number in range(1, 13)],
        [f"it's mine.gguf.part{number}" for number in range(1, 13)],
        [f"x.gguf.part{number}of12" for number in range(1, 13)],
        [f"x.gguf-split-{number}" for number in range(12)],
        [f"x.gguf.{number:03}" for number in range(1, 13)],
        [f"x.gguf.part-a{letter}" for letter in "abcdefghijkl"],
    ],
)
def test_the_command_joins_twelve_pieces_in_their_order(tmp_path, pieces):
    for name in reversed(pieces):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "x.gguf.md5").write_text("of the whole\n")
    command = remains_of(pieces[1]).what.partition("(")[2][:-1]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    (whole,) = {*tmp_path.glob("*.gguf")} - {tmp_path / name for name in pieces}
    assert whole.read_text().splitlines() == pieces


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("x.gguf?download=true", "rename it to x.gguf"),
        ("x.gguf (1)", "remove it, or rename it to end in .gguf"),
        ("x.gguf.html", "download the model from its direct link"),
        ("x.gguf.txt", "if it is the model, rename it to x.gguf"),
        ("x.gguf-00001-of-00003", "if it begins with GGUF, rename it to x-00001-of-00003.gguf, or else join"),
        ("x.gguf.part1.rar", "unpack the first part, with all others beside it"),
        ("x.safetensors", "has to be converted, by llama.cpp's convert_hf_to_gguf.py"),
    ],
)
def test_each_has_its_own_remedy(name, remedy):
    assert remedy in remains_of(name).what


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("model.safetensors", "Llama-3-8B"),
        ("pytorch_model-00001-of-00002.bin", "Llama-3-8B"),
        ("consolidated.00.pth", "Llama-3-8B"),
        ("x.safetensors", "x"),
    ],
)
def test_a_model_whose_files_all_have_one_name_is_called_after_its_folder(name, called):
    assert remains_of(name, "Llama-3-8B").name == called
