"""Print the size and shape of the code: `make gauges`. Goals, not gates; the trend is what counts."""

from statistics import median

import grimp

from tools import house
from tools.one_command import files_followed


def main() -> None:
    """Print one gauge a line: what it is, its value, its goal."""
    package = house.modules()
    sizes = {
        module.path.relative_to(house.PACKAGE).as_posix(): len(module.lines) for module in package if module.path.name != "__init__.py"
    }
    followed = files_followed()
    knots = modules_in_cycles()

    gauge("own metaclasses", len(house.own_metaclasses(package)), "0")
    gauge("__init_subclass__", len(house.subclass_hooks(package)), "0")
    gauge("inheritance depth, at most", max(house.depths(package).values(), default=0), "2")
    gauge("modules in import cycles", len(knots), "0", *knots)
    gauge("imports inside functions", len(house.imports_inside_functions(package)), "0")
    gauge("methods in the log's seam", len(house.seam_methods(package)), "3", *house.seam_methods(package))
    gauge("public names", len(house.public_names(package)), "about 60")
    gauge("modules", len(sizes), "")
    gauge("lines", sum(sizes.values()), "")
    gauge("lines of the median module", round(median(sizes.values())) if sizes else 0, "60-200")
    gauge("files that one command runs through", len(followed), "at most 9", *followed)
    print("longest modules")
    for lines, name in sorted(((lines, name) for name, lines in sizes.items()), reverse=True)[:5]:
        print(f"  {name:<36} {lines:>6}")


def gauge(name: str, value: int, goal: str, *parts: str) -> None:
    """Print a gauge, and below it what was counted, where that is worth a look."""
    print(f"{name:<38} {value:>6}  {'(goal ' + goal + ')' if goal else ''}".rstrip())
    for part in parts:
        print(f"  {part}")


def modules_in_cycles() -> list[str]:
    """Return the modules that import themselves by way of others."""
    graph = grimp.build_graph("happened", cache_dir=None)
    return sorted(
        module
        for module in graph.modules
        if any(graph.chain_exists(imported, module) for imported in graph.find_modules_directly_imported_by(module))
    )


if __name__ == "__main__":
    main()
