"""Rewrites notations that have a plain LaTeX equivalent: environments, cis, combinations, money, powers of ten, ...

Each function takes a text and returns it with one kind of notation rewritten.
"""

import re

_RELATIONS_ENVIRONMENT = (
    r"(?:aligned|alignedat|align|alignat|gathered|gather|split|eqnarray|equation|multline|displaymath)\*?"
)
_ENVIRONMENT = re.compile(
    rf"\\begin\s*\{{({_RELATIONS_ENVIRONMENT})\}}(?:\[\w\]|\{{\d\}})?(.*?)\\end\s*\{{\1\}}", re.DOTALL
)
_ARRAY = re.compile(
    r"(\\left\s*\\?[(\[|{.]|[(\[|]|\\[vV]ert|\\\{)?\s*\\begin\s*\{(array|tabular)\}\s*(?:\[\w\]\s*)?(?:\{[^{}]*\})?(.*?)\\end\s*\{\2\}",
    re.DOTALL,
)
_NUMBER = r"(?:\d(?:[\d,]|\\!|\{,\}|\\,(?=\d{3}))*(?:\.\d+)?|\.\d+|\\frac\s*\{\d+\}\s*\{\d+\})"
CURRENCIES = "eur|gbp|inr|yen|rub|won|shekel|dong|baht|lira|peso|dollar|angstrom"
_SCALE = r"(?:hundred|thousand|million|billion|trillion|lakh|crore)"


def environments(text: str) -> str:
    """Rewrites environments around several relations as lists, and arrays that are not matrices as their rows."""
    text = _ENVIRONMENT.sub(lambda m: _rows(m[2]), text)
    return _ARRAY.sub(_array, text)


def _rows(content: str) -> str:
    rows = re.split(r"\\\\(?:\s*\[[^\[\]]*\])?", content.replace("&", " "))
    joined = ", ".join(row.strip(" ,;\n") for row in rows if row.strip(" ,;\n"))
    return re.sub(r",\s*(?==)", " ", joined)  # a row that begins with = continues the row above


def _array(match: re.Match[str]) -> str:
    bracket, content = match[1] or "", match[3].replace("\\hline", " ")
    opening = bracket.removeprefix("\\left").strip()
    has_columns = "&" in content
    relations = re.search(r"=|<|>|\\[lg]e(?![a-z])|\\[lg]eq", content)
    if opening in ("\\{", "{", ".") or (not opening and (relations or not has_columns)):
        return bracket + _rows(content) if opening not in ("\\{", ".") else _rows(content)
    return f"{bracket}\\begin{{matrix}}{content}\\end{{matrix}}"


def polar(text: str) -> str:
    """Rewrites `r cis t` and `r∠t` as r (cos t + i sin t)."""
    text = re.sub(r"\\(?:operatorname\*?|text|mathrm|mbox)\s*\{\s*cis\s*\}|\\cis(?![a-zA-Z])", " cis ", text)
    text = re.sub(r"(?<=[\d})])\s*\\angle(?![a-zA-Z])", " cis ", text)
    start = 0
    while match := re.compile(r"(?<![a-zA-Z\\])cis(?![a-zA-Z])\s*").search(text, start):
        argument = _argument(text, match.end())
        start = match.end()
        if argument:
            inner, end = argument
            degrees = re.match(
                r"\s*(?:\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|\\degree|degrees?(?![a-z]))", text[end:]
            )
            if degrees:
                inner, end = f"{inner} ^\\circ", end + degrees.end()
            turned = f"(\\cos({inner})+i\\sin({inner}))"
            text = text[: match.start()] + turned + text[end:]
            start = match.start() + len(turned)
    return text


def _argument(text: str, start: int) -> tuple[str, int] | None:
    """Returns the argument of a function, with or without brackets, and where it ends; None if there is none."""
    rest = text[start:]
    if match := re.match(r"(?:\\left\s*)?([({])", rest):
        depth = 0
        for place in range(match.start(1), len(rest)):
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(rest[place], 0)
            if depth == 0:
                return rest[match.end() : place].removesuffix("\\right").strip(), start + place + 1
        return None
    piece = r"-?\s*(?:\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}|\d+(?:\.\d+)?|\\[a-z]+|[a-z])"
    found = re.match(rf"{piece}(?:\s*(?:\\pi|pi|/\s*\d+))*", rest)
    return (found[0], start + found.end()) if found else None


def combinations(text: str) -> str:
    """Rewrites `{}_{10}C_3`, `^{10}C_3`, `C_{10}^{3}`, `C^3_{10}` as binomial coefficients, permutations likewise."""
    number = r"(?:\{\s*(\d+)\s*\}|(\d))"

    text = re.sub(
        rf"(?:\{{\s*\}}|^|(?<=[\s+\-*/=(,]))\s*[_^]\s*{number}\s*([CP])\s*_\s*{number}",
        lambda m: _chosen(m[3], m[1] or m[2], m[4] or m[5]),
        text,
    )
    text = re.sub(
        rf"(?<![a-zA-Z\\])([CP])\s*_\s*{number}\s*\^\s*{number}",
        lambda m: _chosen(m[1], m[2] or m[3], m[4] or m[5]),
        text,
    )
    text = re.sub(
        rf"(?<![a-zA-Z\\])([CP])\s*\^\s*{number}\s*_\s*{number}",
        lambda m: _chosen(m[1], m[4] or m[5], m[2] or m[3]),
        text,
    )
    text = re.sub(r"(?<![\w\\])(\d+)\s*([CP])\s*(\d+)(?!\w)", lambda m: _chosen(m[2], m[1], m[3]), text)
    return re.sub(
        r"(?<![a-zA-Z\\])(?:binom|comb|nCr|nchoosek|choose)\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)", r"\\binom{\1}{\2}", text
    )


def _chosen(kind: str, n: str, k: str) -> str:
    if kind == "C":
        return f"\\binom{{{n}}}{{{k}}}"
    return f"\\frac{{{n}!}}{{({n}-{k})!}}" if len(n) < 6 and len(k) < 6 and int(n) >= int(k) else f"P({n},{k})"


def outward_brackets(text: str) -> str:
    """Rewrites `]0, 1[` as `(0, 1)`."""
    text = (
        re.sub(r"\\(?:left|right|mathopen|mathclose)\s*\{?\s*([\[\]])\s*\}?", r"\1", text)
        if re.search(r"[\[\]]", text)
        else text
    )
    ends = r"([^\[\],;]+[,;][^\[\],;]+)"
    text = re.sub(
        rf"(^|\\cup|\\cap|\\in|=)(\s*)\]{ends}([\[\]])",
        lambda m: f"{m[1]}{m[2]} ({m[3]}" + (")" if m[4] == "[" else "]"),
        text,
    )
    return re.sub(rf"\[{ends}\[(?=\s*(?:$|\\cup|\\cap|\\setminus|\\\]|\$|[.,;]))", r"[\1)", text)


def money(text: str) -> str:
    """Moves the sign or name of a currency behind the amount."""
    text = re.sub(r"\\(pounds|textsterling|euro|texteuro|yen|textyen|cent|cents|textcent)(?![a-zA-Z])", _currency, text)
    text = re.sub(r"\\(?:text|mathrm)\s*\{\s*(⟦\w+⟧)\s*\}", r"\1", text)
    text = re.sub(
        rf"(?<![a-zA-Z\\])(-?)\s*(?:US|USD|U\.S\.)?\s*\\\$\s*(-?)\s*({_NUMBER})(\s*(?:\\text\{{\s*)?{_SCALE}(?![a-z])(?:\s*\}})?)?",
        r"\1\2\3\4⟦dollar⟧",
        text,
    )
    if len(re.findall(r"(?<!\\)\$", text)) == 1:  # a single dollar sign does not open math mode
        text = re.sub(rf"^(\s*-?\s*)\$\s*(-?{_NUMBER})(\s*{_SCALE}(?![a-z]))?", r"\1\2\3⟦dollar⟧", text)
        text = re.sub(rf"({_NUMBER})\s*\$\s*$", r"\1⟦dollar⟧", text)
    text = re.sub(rf"({_NUMBER})\s*\\\$", r"\1⟦dollar⟧", text)
    text = re.sub(
        rf"⟦({CURRENCIES})⟧\s*(-?{_NUMBER})(\s*(?:\\text\{{\s*)?{_SCALE}(?![a-z])(?:\s*\}})?)?", r"\2\3⟦\1⟧", text
    )
    return re.sub(
        rf"(?:\\text\{{\s*)?(?<![a-zA-Z\\])(Rs|INR|USD|EUR|GBP|JPY|CNY|RMB|RUB|KRW|CHF)\.?"
        rf"\s*(?:~|\\,|\\ )?\s*\}}?\s*(-?{_NUMBER})",
        r"\2⟦\1⟧",
        text,
    )


def scientific(text: str) -> str:
    """Rewrites `6.02 x 10^23`, `10^-2`, `x^-1` with \\cdot and braces."""
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", r" \\cdot ", text)
    text = text.replace("**", "^") if re.search(r"\*\*\s*-", text) else text
    text = re.sub(r"\^-\s*\^\{?(\d+)\}?", r"^{-\1}", text)
    return re.sub(r"\^\s*([-+])\s*(\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z]))", r"^{\1\2}", text)


def repeating(text: str) -> str:
    """Rewrites `0.1(6)` and `0.\\dot{1}4\\dot{2}` with an overline."""
    text = re.sub(r"(?<![\w.)])(\d*\.\d*)\((\d{1,50})\)(?![\w(^])", r"\1\\overline{\2}", text)
    text = re.sub(r"(\.\d*)\\dot\s*\{?(\d)\}?(\d*)\s*\\dot\s*\{?(\d)\}?", r"\1\\overline{\2\3\4}", text)
    return re.sub(r"(?<![\w.])(\d*\.\d*?)(\d)\s*(?:\(?repeating\)?|\(?recurring\)?)", r"\1\\overline{\2}", text)


def decimal_comma(text: str) -> str:
    """Rewrites `2{,}5` with a decimal point; `1{,}234` means thousands, `0{,}125` does not."""
    return re.sub(
        r"(?<![\d.,}])(\d+)\{,\}(?!\d{3}(?!\d))(\d+)(?![\d{])|(?<![\d.,}])(0)\{,\}(\d+)(?![\d{])", _point, text
    )


def _point(match: re.Match[str]) -> str:
    return f"{match[1] or match[3]}.{match[2] or match[4]}"


def _currency(match: re.Match[str]) -> str:
    name = match[1].removeprefix("text").removesuffix("s")
    return f"⟦{ {'pound': 'gbp', 'sterling': 'gbp', 'euro': 'eur'}.get(name, name) }⟧"


def unit_fractions(text: str) -> str:
    """Rewrites `\\frac{\\text{m}}{\\text{s}^2}` as `\\text{m/s^2}`."""
    unit = r"\{\s*\\(?:text|mathrm|rm)\s*\{([^{}]*)\}\s*(\^\s*\{?\d\}?)?\s*\}"
    return re.sub(
        rf"\\[dt]?frac\s*{unit}\s*{unit}",
        lambda m: f"\\text{{ {m[1]}{m[2] or ''}/{m[3]}{m[4] or ''}}}".replace("^{", "^"),
        text,
    )
