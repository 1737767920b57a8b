"""A preprocessor of mdBook, which makes links of the documents work in the book.

A link to a file that the book does not contain leads to the repository. A link to a README.md leads to the index.html that
mdBook makes of it.
"""

import json
import posixpath
import re
import sys

LINK = re.compile(r"\]\((?![a-z]+:)([^)\s#]+)(#[^)\s]*)?\)")


def rewrite(chapter, repository):
    folder = posixpath.dirname(chapter["path"] or "")

    def adapt(match):
        path, anchor = match[1], match[2] or ""
        target = posixpath.normpath(posixpath.join("docs", folder, path))
        if not target.startswith("docs/") or target == "docs/SUMMARY.md":
            return f"]({repository}/blob/main/{target}{anchor})"
        if posixpath.basename(path) == "README.md":
            path = posixpath.join(posixpath.dirname(path), "index.md")
        return f"]({path}{anchor})"

    chapter["content"] = LINK.sub(adapt, chapter["content"])
    for item in chapter["sub_items"]:
        rewrite(item["Chapter"], repository)


if sys.argv[1:2] == ["supports"]:
    sys.exit(0)

context, book = json.load(sys.stdin)
html = context["config"]["output"]["html"]
# mdBook 0.5 calls the chapters `items`, and earlier versions `sections`.
for part in book.get("items", book.get("sections", [])):
    if isinstance(part, dict) and "Chapter" in part:
        rewrite(part["Chapter"], html["git-repository-url"])
json.dump(book, sys.stdout)
