"""Writes what the fuzz targets begin with, for `make fuzz`: every answer in the vendors' fixtures
becomes a file in the folder of its vendor's target. The argument is the folder of these folders."""

import json
import pathlib
import sys
import tomllib
from collections.abc import Iterator

FIXTURES = pathlib.Path("tests/fixtures")


def answers(vendor: pathlib.Path) -> Iterator[str]:
    """Each answer that the vendor's fixtures hold, or describe."""
    tables = {path.stem: tomllib.loads(path.read_text()) for path in vendor.glob("*.toml")}
    yield from (path.read_text() for path in vendor.glob("*.answer.json"))
    others = [call["answer"] for call in tables["vendor"].get("calls", {}).values()]
    yield from others
    yield from (answer for kind in tables["unreadable"].values() for answer in kind)
    errors = [row for group in tables["errors"]["error"] for row in group["rows"]]
    # A vendor may repeat what it was sent, a token say, break it up, and be long-winded.
    given = [value for answer in others for value in json.loads(answer).values()]
    for value in map(str, [*tables["vendor"]["account"].values(), *given]):
        texts = [f"refused: {value}", f"refused: {value[:1]}\x7f{value[1:]}", value + "号" * 300]
        yield from texts
        errors += [[77777, text] for text in texts]
    for code, text in errors:
        body = tables["errors"]["body"].replace("CODE", json.dumps(code))
        yield body.replace("TEXT", json.dumps(text, ensure_ascii=False))
    for table in tables["words"]["table"]:
        for word in [word for word, _ in table["words"]] + table["unknown"]:
            yield with_member((vendor / "order.answer.json").read_text(), table["at"], word)


def with_member(answer: str, pointer: str, value: str) -> str:
    """The JSON with another value at that pointer."""
    whole = json.loads(answer)
    *parents, name = pointer.split("/")[1:]
    place = whole
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    place[name] = value
    return json.dumps(whole, ensure_ascii=False)


def main() -> None:
    """Writes them all."""
    for vendor in sorted(path for path in FIXTURES.iterdir() if path.is_dir()):
        folder = pathlib.Path(sys.argv[1]) / vendor.name
        folder.mkdir(parents=True, exist_ok=True)
        for number, answer in enumerate(answers(vendor)):
            (folder / f"{number}.json").write_text(answer)


if __name__ == "__main__":
    main()
