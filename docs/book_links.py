"""mdBook's preprocessor for docs/book.toml: makes links that lead out of docs/ plain text, has those to
a README lead to the index.html that mdBook makes of it, and fails where a link leads to nothing."""

import json
import os
import re
import sys

LINK = re.compile(r"(!?)\[([^][]*)\]\(([^()#\s]+)(#[^()\s]*)?\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def pages(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            yield item["Chapter"]
            yield from pages(item["Chapter"]["sub_items"])


def resolve(root, page, errors):
    folder = os.path.dirname(page["path"] or "")

    def link(match):
        picture, text, target, place = match.groups()
        if "://" in target:
            return match.group(0)
        path = os.path.normpath(os.path.join(folder, target))
        if not os.path.exists(os.path.join(root, path)):
            errors.append(f"{page['path']}: {target} is not there")
        if path.startswith("..") and not picture:
            return text
        target = re.sub(r"(^|/)README\.md$", r"\1index.md", target)
        return f"{picture}[{text}]({target}{place or ''})"

    # A link's text may hold code, so that code is taken out and put back.
    kept = []

    def keep(match):
        kept.append(match.group(0))
        return f"\0{len(kept) - 1}\0"

    content = LINK.sub(link, CODE.sub(keep, page["content"]))
    page["content"] = re.sub("\0([0-9]+)\0", lambda match: kept[int(match[1])], content)


def main():
    if sys.argv[1:2] == ["supports"]:
        return 0
    context, book = json.load(sys.stdin)
    errors = []
    for page in pages(book.get("items", book.get("sections", []))):
        resolve(context["root"], page, errors)
    for error in errors:
        print(error, file=sys.stderr)
    json.dump(book, sys.stdout)
    return 1 if errors else 0


sys.exit(main())
