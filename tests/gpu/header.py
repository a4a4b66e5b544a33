"""The C header as ctypes sees it: structs, constants and calls read from clusterfusion.h itself, so that nothing here can drift from it."""

import ctypes
import re
from pathlib import Path

HEADER = Path(__file__).resolve().parents[2] / "include" / "clusterfusion.h"

_SCALARS = {"uint32_t": ctypes.c_uint32, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "size_t": ctypes.c_size_t,
            "float": ctypes.c_float, "double": ctypes.c_double, "char": ctypes.c_char}


class Failure(Exception):
    def __init__(self, call, status, text):
        super().__init__(f"{call}: {text} (status {status})")
        self.status = status


class Header:
    """structs[name] is a ctypes class; constants[name] a number."""

    def __init__(self, path=HEADER):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        enums = " ".join(re.findall(r"enum \{(.*?)\}", text, re.S))
        self.constants = {name: int(value) for name, value in re.findall(r"(CF_\w+) = (-?\d+)", enums)}
        types = dict(_SCALARS)
        types.update({name: ctypes.c_int32 for name in re.findall(r"typedef int32_t (\w+);", text)})
        types.update({name: ctypes.c_void_p for name in re.findall(r"typedef \S+ ?\(?\*? ?(cf_\w+_fn)\)?\(", text)})
        types.update({name: ctypes.c_void_p for name in re.findall(r"\(\*(cf_\w+_fn)\)", text)})
        self.structs = {}
        for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", text, re.S):
            fields = [self._field(declaration.strip(), types) for declaration in body.split(";") if declaration.strip()]
            self.structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})

    @staticmethod
    def _field(declaration, types):
        match = re.fullmatch(r"(.*?)(\w+)(?:\[(\d+)\])?", declaration, re.S)
        kind, name, length = match[1].strip(), match[2], match[3]
        base = ctypes.c_void_p if "*" in kind else types[kind.replace("const ", "")]
        return name, base * int(length) if length else base


class Library:
    """Calls by name; anything but CF_OK raises Failure."""

    def __init__(self, path):
        self.header = Header()
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name):
        if name.startswith("CF_"):
            return self.header.constants[name]
        raise AttributeError(name)

    def call(self, name, *arguments):
        status = self.status(name, *arguments)
        if status != 0:
            raise Failure(name, status, self.last_error())

    def last_error(self):
        buffer = ctypes.create_string_buffer(4096)
        self._library.cf_last_error(buffer, ctypes.c_size_t(len(buffer)), None)
        return buffer.value.decode()

    def status(self, name, *arguments):
        return getattr(self._library, name)(*arguments)

    def struct(self, name, **values):
        """A struct with its defaults, then `values`."""
        value = self.header.structs[name]()
        self.call(f"{name}_init", ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))
        for field, content in values.items():
            if not hasattr(value, field):
                raise AttributeError(f"{name} has no {field}")
            setattr(value, field, content)
        return value

    def create(self, name, *arguments):
        """The handle that a call writes to its last argument."""
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle
