"""Globals that can run code: a pickle that names one is refused as a whole.

Nothing is run in any case; a checkpoint that asks for it was written by someone whose numbers need not
be trusted either.
"""

from pathlib import Path

from sedarchive.errors import UnsafeCheckpointError
from sedarchive.readers.unpickle import Global

HARMLESS_BUILTINS = frozenset([
    "set", "frozenset", "list", "tuple", "dict", "slice", "complex", "bytearray", "bytes", "int", "float", "bool",
    "str", "object", "range", "Ellipsis", "NotImplemented",
])  # fmt: skip
_BUILTINS = frozenset({"builtins", "__builtin__", "__builtins__"})
_MODULES = frozenset([
    "os", "posix", "nt", "ntpath", "posixpath", "subprocess", "_posixsubprocess", "sys", "importlib", "imp",
    "zipimport", "pkgutil", "runpy", "pty", "socket", "_socket", "ssl", "shutil", "ctypes", "_ctypes", "cffi", "code",
    "codeop", "types", "pickle", "_pickle", "cPickle", "pickletools", "shelve", "marshal", "dill", "cloudpickle",
    "joblib", "webbrowser", "io", "_io", "multiprocessing", "asyncio", "concurrent", "threading", "_thread", "signal",
    "atexit", "gc", "pdb", "bdb", "timeit", "cProfile", "profile", "trace", "doctest", "pydoc", "platform", "popen2",
    "commands", "http", "urllib", "urllib2", "httplib", "requests", "aiohttp", "ftplib", "smtplib", "telnetlib",
    "xmlrpc", "venv", "ensurepip", "pip", "setuptools", "distutils", "idlelib", "lib2to3", "nose", "pytest", "IPython",
    "builtin", "fabric", "paramiko", "tkinter",
])  # fmt: skip
_DOTTED = (
    "operator.methodcaller", "operator.attrgetter", "operator.call", "_operator.call", "_operator.methodcaller",
    "_operator.attrgetter", "functools.reduce", "torch.hub", "torch.load", "torch.jit", "torch.utils", "torch.package",
    "torch.serialization.load", "torch._dynamo", "torch._inductor", "torch.distributed.rpc", "torch.cuda.jiterator",
    "torch.compile", "torch.ops", "torch.classes", "torch.storage._load_from_bytes", "numpy.load", "numpy.testing",
    "numpy.f2py", "numpy.distutils", "numpy.core._internal", "pandas.read_pickle", "pandas.eval", "logging.config",
    "sqlite3",
)  # fmt: skip
_ALLOWED = frozenset({"types.SimpleNamespace", "types.MappingProxyType", "types.NoneType"})


def refuse_unsafe(found: Global, path: Path) -> None:
    """Refuse a pickle that names something which runs code.

    Raises
    ------
    UnsafeCheckpointError
        Naming the file and the global.
    """
    if is_unsafe(found):
        raise UnsafeCheckpointError(
            f"{path}: its pickle asks for {found.dotted[:200]}, which can run code; nothing was executed; if you trust "
            "its author, load it in the program that wrote it and save the weights as safetensors"
        )


def is_unsafe(found: Global) -> bool:
    """Whether a global, or a part of its dotted name, can run code."""
    if found.dotted in _ALLOWED:
        return False
    module, *_ = found.module.split(".")
    if module in _BUILTINS:
        return found.name not in HARMLESS_BUILTINS
    if any(found.dotted == name or found.dotted.startswith(f"{name}.") for name in _DOTTED):
        return True
    # protocol 4 walks dotted names: torch + "serialization.os.system" is os.system
    reached = found.name.split(".")[:-1]
    return module in _MODULES or any(part in _MODULES or part in _BUILTINS for part in reached)
