"""Text on a terminal: tokens coloured by their temperature, control characters made visible.  Imports nothing local."""

# C0 but newline and tab, DEL, C1: a terminal would obey them.
SHOWN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    r"""`text` with every control character written out, newline and tab excepted.

    >>> visible("red \x1b[31m text\n")
    'red \\x1b[31m text\n'
    """
    return text.translate(SHOWN)


def colour(text: str, temperature: float, tau_min: float = 0.0, tau_max: float = 1.5) -> str:
    """`text` in ANSI colours, from blue (cold) over grey to red (hot)."""
    ramp = (27, 33, 39, 45, 87, 195, 252, 224, 217, 210, 203, 196)  # of the 256-colour palette
    share = (temperature - tau_min) / max(tau_max - tau_min, 1e-6)
    shade = ramp[round(min(max(share, 0.0), 1.0) * (len(ramp) - 1))]
    return f"\x1b[38;5;{shade}m{text}\x1b[0m"


def verdict(reward: float) -> str:
    """
    >>> verdict(1.0), verdict(0.0), verdict(0.25)
    ('right', 'wrong', 'reward 0.25')
    """
    return {1.0: "right", 0.0: "wrong"}.get(reward, f"reward {reward:.2f}")


def show(pieces: list[str], temperatures: list[float], colours: bool) -> str:
    """A completion on one line. Colours show the temperatures; without colours each stands behind its token.

    >>> show(["3", "+"], [0.25, 1.0], colours=False)
    '3[0.25] +[1.00]'
    """
    pieces = [visible(piece).replace("\n", " ") for piece in pieces]
    if colours:
        return "".join(colour(piece, tau) for piece, tau in zip(pieces, temperatures))
    return " ".join(f"{piece}[{tau:.2f}]" for piece, tau in zip(pieces, temperatures))
