"""What ptxas may make of a kernel's PTX, so that the emulator computes what a device may."""

import re
from functools import lru_cache

from flashactor.executors.emulator import kernel_ptx

_PRODUCT = re.compile(r"mul\.f32 \t(%f\d+), (%f\d+), (%f\d+);")
_DIFFERENCE = re.compile(r"sub\.f32 \t(%f\d+), (%f\d+), (%f\d+);")


@lru_cache(maxsize=8)
def contracted_ptx(spec):
    """The PTX with each difference whose first operand is a product as one fma, which ptxas is free to do."""
    text = kernel_ptx(spec)
    products = {found[1]: (found[2], found[3]) for found in _PRODUCT.finditer(text)}

    def contract(found):
        to, product, other = found.groups()
        if product not in products:
            return found[0]
        left, right = products[product]
        return f"neg.f32 \t%minus0, {other};\n\tfma.rn.f32 \t{to}, {left}, {right}, %minus0;"

    changed = _DIFFERENCE.sub(contract, text)
    assert changed != text, "no product is subtracted from: the text has another form now"
    return changed.replace("\t.reg .f32", "\t.reg .f32 \t%minus<1>;\n\t.reg .f32", 1)
