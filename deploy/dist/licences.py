"""Prints the licences of everything that is linked into `fanfare`, as they ask for: licences.py TARGET."""

import json
import pathlib
import subprocess
import sys


def cargo(*words):
    command = ["cargo", *words, "--locked", "--offline"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(target):
    """Names and versions, without what only builds or tests."""
    words = ["--package", "fanfare", "--edges", "normal,no-proc-macro", "--target", target]
    lines = cargo("tree", *words, "--prefix", "none", "--format", "{p}").splitlines()
    packages = {tuple(line.split()[:2]) for line in lines if line}
    return {(name, version.removeprefix("v")) for name, version in packages}


def texts(folder):
    """The files of a package that hold its licences, or what its authors want to be told."""
    words = ("LICEN", "COPYING", "NOTICE", "COPYRIGHT", "UNLICENSE")
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name.upper().startswith(words))


def main(target):
    wanted = linked(target)
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", target))
    print("Fanfare is linked with the following. Each stands under its own licence.")
    print("Rust's standard library, which is linked too, is under MIT or Apache-2.0.")
    for package in sorted(metadata["packages"], key=lambda package: package["name"]):
        if package["source"] is None or (package["name"], package["version"]) not in wanted:
            continue
        print("\n" + "=" * 100)
        print(f"{package['name']} {package['version']}: {package['license']}")
        print(", ".join(package["authors"]) or package["repository"] or "")
        for file in texts(pathlib.Path(package["manifest_path"]).parent):
            print(f"\n--- {file.name}\n{file.read_text(errors='replace').strip()}")


main(sys.argv[1])
