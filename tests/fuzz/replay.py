"""Runs the call in a file that fuzz_run.py has saved."""

import math
import sys
from pathlib import Path

from tests.fuzz.check import check_call
from tests.fuzz.functions import Call
from tests.fuzz.operators import OperatorCall, check_operator
from tests.fuzz.tensors import Ints, Spec

KNOWN = {"Call": Call, "OperatorCall": OperatorCall, "Spec": Spec, "Ints": Ints}


def main():
    names = {**KNOWN, "nan": math.nan, "inf": math.inf, "__builtins__": {}}
    call = eval(Path(sys.argv[1]).read_text(), names)
    print(call)
    if isinstance(call, Call):
        check_call(call)
    else:
        check_operator(call)
    print("passed")


if __name__ == "__main__":
    main()
