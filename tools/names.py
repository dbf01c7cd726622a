"""How the product's names, imports and lengths stand, as figures: `python tools/names.py [--search BUNDLE]`.

Prints one line of JSON: classes, how many of them are one word, class names used twice, metaphors among identifiers,
circles and levels of imports, long functions and modules. With `--search BUNDLE` also the frames of one warm search:
the functions of ours on the call stacks at the points of CROSSINGS, through the ASGI application and its threads.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import re
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
FOLDERS = ("embedship", "monitor", "export", "serve")
FUNCTION_LINES, MODULE_LINES = 70, 400
METAPHORS = frozenset(
    {
        "house",
        "room",
        "rooms",
        "face",
        "faces",
        "door",
        "doors",
        "shelf",
        "shelves",
        "seat",
        "seats",
        "errand",
        "errands",
        "ticket",
        "tickets",
        "visit",
        "visits",
        "choir",
        "choirs",
        "song",
        "songs",
        "pen",
        "pens",
        "school",
        "schools",
        "lesson",
        "lessons",
        "workshop",
        "crowd",
        "crowded",
        "patience",
        "watchman",
    }
)


def sources() -> dict[str, Path]:
    """Every module of the product: import path -> file."""
    found: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "embedship" else ("embedship", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in sources().items()}


def words(identifier: str) -> list[str]:
    """The words of an identifier in snake or camel case, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)]


def classes() -> Counter[str]:
    """Class name -> how many modules or classes define it."""
    return Counter(node.name for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def one_word(names: Counter[str]) -> list[str]:
    return sorted(name for name in names if len(words(name)) == 1)


def used_twice(names: Counter[str]) -> list[str]:
    return sorted(name for name, count in names.items() if count > 1)


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Names of classes, functions, parameters, variables and attributes that a module gives."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def metaphors() -> list[str]:
    """Identifiers and file names of the product with a word that hides what is meant, as module:name."""
    found = {
        f"{module.removeprefix('embedship.')}:{name}"
        for module, tree in trees().items()
        for name in [*identifiers(tree), module.rsplit(".", 1)[-1]]
        if METAPHORS & set(words(name))
    }
    return sorted(found)


def graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports anywhere: in functions and under TYPE_CHECKING also."""
    parsed = trees()
    edges: dict[str, set[str]] = {name: set() for name in parsed}
    for name, tree in parsed.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                found = {f"{node.module}.{alias.name}" for alias in node.names}
                edges[name] |= {each if each in parsed else str(node.module) for each in found}
            elif isinstance(node, ast.Import):
                edges[name] |= {alias.name for alias in node.names}
        edges[name] = (edges[name] & set(parsed)) - {name}
    return edges


def entry(module: str) -> tuple[str, str]:
    """The folder of a module, and the package or module directly inside it which it belongs to."""
    parts = module.split(".")[1:]
    folder = parts[0] if parts and parts[0] in FOLDERS[1:] else "embedship"
    rest = parts if folder == "embedship" else parts[1:]
    return folder, rest[0] if rest else ""


def packages(folder: str) -> dict[str, set[str]]:
    """The imports between the packages and modules directly inside a folder."""
    edges: dict[str, set[str]] = {}
    for module, targets in graph().items():
        if entry(module)[0] == folder and (own := entry(module)[1]):
            inside = {entry(target)[1] for target in targets if entry(target)[0] == folder}
            edges[own] = edges.get(own, set()) | (inside - {own, ""})
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def connect(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in sorted(edges.get(node, ())):
            if target not in number:
                connect(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], number[target])
        if low[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in number:
            connect(node)
    return found


def levels(edges: dict[str, set[str]]) -> int:
    """The longest chain of imports; the edges must be free of circles."""
    depth: dict[str, int] = {}

    def measure(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + max((measure(target) for target in edges.get(node, ())), default=0)
        return depth[node]

    return max(map(measure, edges))


def long_functions(limit: int = FUNCTION_LINES) -> dict[str, int]:
    """module:function -> lines, of functions with more than `limit`."""
    return {
        f"{module.removeprefix('embedship.')}:{node.name}": lines
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > limit
    }


def long_modules(limit: int = MODULE_LINES) -> dict[str, int]:
    """module -> lines, of modules with more than `limit`."""
    counted = {module: len(path.read_text().splitlines()) for module, path in sources().items()}
    return {module.removeprefix("embedship."): lines for module, lines in counted.items() if lines > limit}


# The points that every search passes, in this order. The functions on the call stack at any of them are its path.
CROSSINGS = {
    "the queue gives a permit": "embedship.serve.batching.admission:AdmissionController.acquire",
    "the text becomes tokens": "embedship.tokens:Tokenizer.__call__",
    "it enters the queue": "embedship.serve.batching.priority_queue:_OrderedQueue.put",
    "a device takes it": "embedship.serve.batching.priority_queue:_OrderedQueue.take",
    "the engine computes": "embedship.engine.onnxruntime:OnnxRuntimeEngine.encode",
    "the batch ends": "embedship.serve.batching.executor:BatchExecutor._deliver",
    "the request gets its vector": "embedship.serve.batching.pending:PendingRequest.set_row",
    "the search moves to a thread": "embedship.serve.interruption:on_thread",
    "FAISS searches": "embedship.serve.index.flat:FlatIndex.search",
    "exact vectors rank": "embedship.serve.index.exact_vectors:ExactVectors.rank",
    "documents are read": "embedship.serve.documents.store:DocumentStore.fetch",
    "a hit becomes JSON": "embedship.serve.http.routes.search:_hit",
    "the response is sent": "embedship.serve.http.messages:send_response",
}


def function_name(frame: FrameType) -> str:
    """module:function of a frame of ours, or an empty string for other code, generated code and comprehensions."""
    module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
    generated = function.startswith(("<", "__create_fn__")) or function.endswith(("<listcomp>", "<genexpr>"))
    return f"{module}:{function}" if module.startswith("embedship.") and not generated else ""


def path_of_a_search(bundle: Path) -> dict[str, list[str]]:
    """The functions of ours on the call stacks of one warm /search: point of CROSSINGS -> functions not named before.

    Each stack ends at the socket (the ASGI application) or at the start of a thread, outermost function first.
    """
    import httpx

    from embedship.encoder import Encoder
    from embedship.serve.http.app import App
    from embedship.serve.indexing.build import IndexOptions, build
    from embedship.serve.service.state import ServerState
    from embedship.serve.settings import Settings

    points = {function: point for point, function in CROSSINGS.items()}
    stacks: dict[str, list[str]] = {}

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (point := points.get(function_name(frame))) and point not in stacks:
            stack, each = [], frame
            while each:
                stack.append(function_name(each))
                each = each.f_back
            stacks[point] = [name for name in reversed(stack) if name]

    async def search(app: App, count: int) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            for number in range(count):  # a search for more than ten hits always moves to a thread
                if number == count - 1:
                    stacks.clear()
                    sys.setprofile(profile)
                answer = await client.post("/search", json={"query": f"a question {number}", "k": 11})
                answer.raise_for_status()
            sys.setprofile(None)

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        corpus.write_text("".join(json.dumps({"id": str(n), "text": f"passage number {n}"}) + "\n" for n in range(50)))
        with Encoder.open(bundle, "onnx") as encoder:
            build(encoder, encoder.variant.name, corpus, Path(folder) / "index", IndexOptions(), lambda *_: None)
        threading.setprofile(profile)
        with ServerState.open(Settings(bundle=bundle, variant="onnx", index=Path(folder) / "index")) as state:
            asyncio.run(search(App(state), 4))
        threading.setprofile(None)  # type: ignore[arg-type]
    if missing := CROSSINGS.keys() - stacks.keys():
        raise SystemExit(f"the search did not pass these functions, correct CROSSINGS: {', '.join(sorted(missing))}")
    seen: set[str] = set()
    path = {}
    for point in CROSSINGS:
        path[point] = [name for name in stacks[point] if name not in seen]
        seen |= set(stacks[point])
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=Path, metavar="BUNDLE", help="count the frames of one search")
    arguments = parser.parse_args()
    names = classes()
    single = one_word(names)
    serve = packages("serve")
    figures: dict[str, object] = {
        "classes": len(names),
        "one_word_classes": len(single),
        "one_word_percent": round(100 * len(single) / len(names), 1),
        "class_names_used_twice": used_twice(names),
        "metaphors": metaphors(),
        "module_circles": circles(graph()),
        "package_circles": {folder: circles(packages(folder)) for folder in FOLDERS},
        "levels": {folder: levels(packages(folder)) for folder in FOLDERS if not circles(packages(folder))},
        "packages_of_serve": len(serve),
        "long_functions": long_functions(),
        "long_modules": long_modules(),
    }
    if arguments.search:
        path = path_of_a_search(arguments.search)
        passed = [name for names in path.values() for name in names]
        figures["search"] = {
            "counted": "distinct functions of ours on the call stack at each crossing, from ASGI to hits and back",
            "frames": len(passed),
            "modules": len({name.partition(":")[0] for name in passed}),
            "path": path,
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
