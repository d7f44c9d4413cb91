"""Runs exported models in ONNX Runtime and compares with what netloom expects.

    KEEP_EXPORTED=FOLDER cargo test -p netloom -p netloom-ir --test onnx written
    python3 benches/peers/onnx_export.py FOLDER

Each NAME.onnx has a NAME.npz beside it: arguments by name, results as `out:NAME`.
"""

import pathlib
import sys

import numpy as np
import onnx
import onnxruntime


def main() -> int:
    failed = 0
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
        arrays = np.load(path.with_suffix(".npz"))
        expected = {name[4:]: arrays[name] for name in arrays.files if name.startswith("out:")}
        try:
            onnx.checker.check_model(onnx.load(path), full_check=True)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            given = {port.name: arrays[port.name] for port in session.get_inputs()}
            names = [port.name for port in session.get_outputs()]
            found = dict(zip(names, session.run(names, given)))
            for name, array in expected.items():
                np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
            print("passed", path.stem)
        except Exception as reason:  # Whatever went wrong, the others are tried too.
            failed += 1
            print("FAILED", path.stem, str(reason).strip().splitlines()[0])
    return 1 if failed else 0


sys.exit(main())
