#!/usr/bin/env python3
"""Compiles kernels/*.cu and packs the results into crates/gpu/kernels.pack. Run after every change under kernels/.

    tools/build_kernels.py            compile and write the pack
    tools/build_kernels.py --check    compile again and compare with the pack (CI)
    tools/build_kernels.py --report   compile and print registers, spills and shared memory of each kernel; writes nothing

All .cu files make one module, compiled by NVRTC (pinned, from PyPI, into build/kernel-compiler; no CUDA toolkit, no GPU)
to one CUBIN per architecture and one PTX for architectures that do not exist yet. The same input gives the same bytes.

Pack: "OMENKRN1", SHA-256 of the sources (32 bytes), u32 count, then per image: name (16 bytes, zero-padded), u32 kind
(0 CUBIN, 1 PTX), u32 length, u32 packed length, then the packed images (zlib) in the same order. Little-endian.
Read by crates/gpu/src/module.rs; the hash is checked by crates/gpu/build.rs, which computes it the same way.
"""

import argparse
import ctypes
import glob
import hashlib
import os
import struct
import subprocess
import sys
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KERNELS = os.path.join(ROOT, "kernels")
PACK = os.path.join(ROOT, "crates", "gpu", "kernels.pack")
SITE = os.path.join(ROOT, "build", "kernel-compiler", "site")
WHEELS = {"nvidia-cuda-nvrtc-cu12": "12.9.86", "nvidia-cuda-runtime-cu12": "12.9.79"}
CUBINS = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"]
PTX = "compute_90"
MAGIC = b"OMENKRN1"


def sources():
    """(name, bytes) of every source under kernels/, sorted by name."""
    names = sorted(n for n in os.listdir(KERNELS) if n.endswith((".cu", ".h")))
    return [(n, open(os.path.join(KERNELS, n), "rb").read()) for n in names]


def source_hash(files):
    """SHA-256 over name, zero byte, 8-byte length and content of each file; build.rs does the same."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(name.encode() + b"\0" + struct.pack("<Q", len(content)) + content)
    return digest.digest()


def have_wheels():
    return all(
        os.path.isdir(os.path.join(SITE, f"{name.replace('-', '_')}-{version}.dist-info"))
        for name, version in WHEELS.items()
    )


def install_compiler():
    """Installs the pinned wheels under build/kernel-compiler, once."""
    if not have_wheels():
        pins = [f"{name}=={version}" for name, version in WHEELS.items()]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", SITE, *pins], check=True
        )


class Compiler:
    """NVRTC by ctypes."""

    def __init__(self):
        libraries = glob.glob(os.path.join(SITE, "nvidia", "cuda_nvrtc", "lib", "libnvrtc.so.12"))
        self.lib = ctypes.CDLL(libraries[0])
        self.include = os.path.join(SITE, "nvidia", "cuda_runtime", "include")
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(self, code, what):
        if code != 0:
            raise RuntimeError(f"{what}: {self.lib.nvrtcGetErrorString(code).decode()}")

    def text(self, program, size_call, get_call):
        size = ctypes.c_size_t()
        self.check(size_call(program, ctypes.byref(size)), size_call.__name__)
        buffer = ctypes.create_string_buffer(size.value)
        self.check(get_call(program, buffer), get_call.__name__)
        return buffer.raw

    def compile(self, files, arch, report):
        """The CUBIN (arch sm_*) or PTX (arch compute_*, without the closing zero byte) of all .cu files as one module."""
        main = "".join(f'#include "{name}"\n' for name, _ in files if name.endswith(".cu"))
        names = (ctypes.c_char_p * len(files))(*[name.encode() for name, _ in files])
        contents = (ctypes.c_char_p * len(files))(*[content for _, content in files])
        program = ctypes.c_void_p()
        self.check(
            self.lib.nvrtcCreateProgram(
                ctypes.byref(program), main.encode(), b"kernels.cu", len(files), contents, names
            ),
            "nvrtcCreateProgram",
        )
        options = [f"--gpu-architecture={arch}", "--std=c++17", f"-I{self.include}", "-default-device"]
        if report and arch.startswith("sm_"):
            options.append("--ptxas-options=-v")
        array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        code = self.lib.nvrtcCompileProgram(program, len(options), array)
        log = self.text(program, self.lib.nvrtcGetProgramLogSize, self.lib.nvrtcGetProgramLog).rstrip(b"\0\n").decode()
        if code != 0:
            raise SystemExit(f"{arch}:\n{log}")
        if log:
            print(f"{arch}:\n{log}", file=sys.stderr)
        if arch.startswith("sm_"):
            image = self.text(program, self.lib.nvrtcGetCUBINSize, self.lib.nvrtcGetCUBIN)
        else:
            image = self.text(program, self.lib.nvrtcGetPTXSize, self.lib.nvrtcGetPTX).rstrip(b"\0")
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        return image


def build(report):
    """(hash, [(name, kind, image)])"""
    install_compiler()
    files = sources()
    compiler = Compiler()
    images = [(arch, 0, compiler.compile(files, arch, report)) for arch in CUBINS]
    images.append((PTX, 1, compiler.compile(files, PTX, report)))
    return source_hash(files), images


def write_pack(digest, images):
    packed = [zlib.compress(image, 9) for _, _, image in images]
    out = MAGIC + digest + struct.pack("<I", len(images))
    for (name, kind, image), blob in zip(images, packed):
        out += struct.pack("<16sIII", name.encode(), kind, len(image), len(blob))
    out += b"".join(packed)
    with open(PACK, "wb") as f:
        f.write(out)
    print(f"{PACK}: {len(images)} images, {sum(len(i) for _, _, i in images)} bytes, {len(out)} packed")


def read_pack():
    data = open(PACK, "rb").read()
    if data[:8] != MAGIC:
        raise SystemExit(f"{PACK} is not a kernel pack")
    digest, (count,) = data[8:40], struct.unpack_from("<I", data, 40)
    entries = [struct.unpack_from("<16sIII", data, 44 + 28 * i) for i in range(count)]
    at, images = 44 + 28 * count, []
    for name, kind, _, length in entries:
        images.append((name.rstrip(b"\0").decode(), kind, zlib.decompress(data[at : at + length])))
        at += length
    return digest, images


def main():
    parser = argparse.ArgumentParser(description="compile and pack the kernels")
    parser.add_argument("--check", action="store_true", help="compare with the pack instead of writing it")
    parser.add_argument("--report", action="store_true", help="print what ptxas says of each kernel")
    options = parser.parse_args()
    digest, images = build(options.report)
    if options.report:
        return  # the report's option ends up in some images
    if not options.check:
        write_pack(digest, images)
        return
    old_digest, old_images = read_pack()
    if old_digest != digest:
        raise SystemExit("kernels.pack was made from other sources: run tools/build_kernels.py")
    different = [new[0] for old, new in zip(old_images, images) if old != new]
    if len(old_images) != len(images) or different:
        raise SystemExit(f"kernels.pack differs from what its sources compile to: {different}")
    print(f"kernels.pack is what its sources compile to ({len(images)} images)")


if __name__ == "__main__":
    main()
