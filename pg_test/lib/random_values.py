"""Random values of SQL types, good and bad ones, as SQL expressions, literals and messages of the binary protocol."""

import struct

import numpy as np

KINDS = ("vector", "halfvec", "sparsevec")
_ODD_NUMBERS = ["0x1p3", "1e39", "-inf", "nan(1)", "1e-50", "Infinity", "0x", "+.5", "1_0", "65519", "65520", "0x0p9", "1e-46", "6e-8", "NaN", "-0", "4e38", "1e", "2.98e-8"]


def numbers(rng: np.random.Generator, size: int, any_number: bool = False) -> list[float]:
    """Eighths up to 8, a third of them zero, whose products add up without rounding; or f32 numbers of moderate size that do not."""
    if any_number:
        found = rng.standard_normal(size).astype(np.float32)
        tiny = rng.random(size) < 0.05
        found[tiny] *= np.float32(1e-6)
    else:
        found = rng.integers(-64, 65, size=size) / 8
    found[rng.random(size) < 0.3] = 0
    return [float(x) for x in found]


def plain(rng, kind: str, size: int, any_number: bool = False) -> str:
    """The literal of a value of a vector type with `size` dimensions."""
    x = numbers(rng, size, any_number)
    if kind == "sparsevec":
        return "{" + ",".join(f"{i}:{x:.9g}" for i, x in enumerate(x, 1) if x) + f"}}/{size}"
    return "[" + ",".join(f"{x:.9g}" for x in x) + "]"


def value(rng, sql_type: str, size: int, any_number: bool = False) -> str:
    """An SQL expression of that type; lists have `size` members."""
    if sql_type in KINDS:
        return f"'{plain(rng, sql_type, size, any_number)}'::{sql_type}"
    if sql_type == "bit":
        return f"B'{''.join(map(str, rng.integers(0, 2, size=size)))}'"
    if sql_type == "integer":
        return f"({rng.choice([rng.integers(-3, 9), rng.integers(-2**31, 2**31)])})"
    if sql_type == "boolean":
        return str(rng.random() < 0.5).lower()
    element = sql_type.removesuffix("[]")
    assert element != sql_type, f"no values of type {sql_type}"
    found = numbers(rng, size, any_number)
    if element == "integer":
        found = [round(x) for x in found]
    elif rng.random() < 0.05:
        found[rng.integers(size)] = rng.choice(["NaN", "Infinity", "1e300" if element in ("double precision", "numeric") else "1e30", "70000", "NULL"])
    if element == "numeric":
        found = [str(x).replace("Infinity", "1e200") for x in found]
    return f"'{{{','.join(map(str, found))}}}'::{sql_type}"


def of_one_size(rng, types: list[str], any_number: bool = False) -> list[str]:
    """Values of these types with as many members, or, now and then, not."""
    size = int(rng.integers(1, 70))
    return [value(rng, t, size if rng.random() < 0.98 else size + 1, any_number) for t in types]


def arguments(rng, types: list[str]) -> str:
    """Arguments of a function."""
    size = int(rng.integers(1, 40))
    found = []
    for t in types:
        this = size if rng.random() < 0.95 else size + 1
        if t == "double precision[]" and "integer" not in types:
            # The state of an aggregate: a count, then sums.
            sums = ",".join(str(x) for x in numbers(rng, this))
            found.append(f"'{{{rng.integers(1, 9)},{sums}}}'::{t}")
        elif t == "integer" and "boolean" in types:
            found.append(str(rng.choice([-1, -1, -1, size, size + 1])))
        else:
            found.append(value(rng, t, this))
    return ", ".join(found)


def _spoil(rng, text: list, alphabet: list):
    """Changes some members, cuts, repeats, inserts."""
    for _ in range(rng.integers(0, 3)):
        at = int(rng.integers(0, len(text) + 1))
        what = rng.integers(0, 5)
        if what == 0:
            del text[at:]
        elif what == 1:
            text.insert(at, alphabet[rng.integers(len(alphabet))])
        elif what == 2 and at < len(text):
            text[at] = alphabet[rng.integers(len(alphabet))]
        elif what == 3 and at < len(text):
            del text[at]
        elif what == 4:
            text.extend(text[at:at + 20])


def spoilt_literal(rng, kind: str) -> str:
    """A literal that may be wrong: with odd numbers, white space, changes anywhere."""
    size = int(rng.integers(1, 6))
    text = plain(rng, kind, size, any_number=rng.random() < 0.5)
    if rng.random() < 0.3:
        odd = str(rng.choice(_ODD_NUMBERS))
        text = f"{{3:{odd},1:2}}/{rng.integers(2, 5)}" if kind == "sparsevec" else f"[1,{odd},{rng.choice(_ODD_NUMBERS)}]"
    characters = list(text)
    _spoil(rng, characters, list("[]{}:/,.0123456789+-eExXpPaAfFnNiIty \t\n\v\"é"))
    return "".join(characters)


def spoilt_message(rng, kind: str) -> bytes:
    """The binary form of a value, which may be wrong."""
    size = int(rng.integers(1, 6))
    x = numbers(rng, size, any_number=True)
    if kind == "sparsevec":
        elements = [(i, v) for i, v in enumerate(x) if v]
        n = len(elements)
        message = struct.pack(f">iii{n}i{n}f", size, n, 0, *(i for i, _ in elements), *(v for _, v in elements))
    else:
        message = struct.pack(f">HH{size}{'e' if kind == 'halfvec' else 'f'}", size, 0, *x)
    data = list(message)
    if rng.random() < 0.7:
        _spoil(rng, data, [0, 1, 2, 0x3C, 0x3E, 0x7C, 0x7F, 0x80, 0xFC, 0xFF])
    return bytes(data)
