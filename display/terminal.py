"""Text in a terminal: coloured by temperature."""


def colour(text: str, temperature: float, tau_min: float = 0.0, tau_max: float = 1.5) -> str:
    """`text` in ANSI colours from blue (cold) over grey to red (hot)."""
    ramp = (27, 33, 39, 45, 87, 195, 252, 224, 217, 210, 203, 196)  # of the 256-colour palette
    share = (temperature - tau_min) / max(tau_max - tau_min, 1e-6)
    shade = ramp[round(min(max(share, 0.0), 1.0) * (len(ramp) - 1))]
    return f"\x1b[38;5;{shade}m{text}\x1b[0m"


def show(pieces: list[str], temperatures: list[float], colours: bool) -> str:
    """A completion on one line: coloured by temperature, or with the temperature behind each token where there is no
    terminal.

    >>> show(["3", "+"], [0.25, 1.0], colours=False)
    '3[0.25] +[1.00]'
    """
    if colours:
        return "".join(colour(piece, tau) for piece, tau in zip(pieces, temperatures)).replace("\n", " ")
    return " ".join(f"{piece}[{tau:.2f}]" for piece, tau in zip(pieces, temperatures)).replace("\n", " ")
