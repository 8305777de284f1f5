"""Figures of boot paths."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.measuring import compared, paired, scratch, timed
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.old_kernel import IMAGE_BYTES, MODULES, old_cell, with_image

READS = 64
READER = f"""
int main(void)
{{
	static char buffer[65536];
	long done, left, file;

	for (done = 0; done < {READS}; done++) {{
		file = open("/dev/mtd0", O_RDONLY, 0);
		for (left = {IMAGE_BYTES}; left > 0; left -= sizeof(buffer))
			if (read(file, buffer, sizeof(buffer)) != sizeof(buffer))
				return 1;
		close(file);
	}}
	return 0;
}}
"""


def bench_phram(store: Store, rounds: int) -> None:
    """Compare reading reserved memory on 5.10 with our patch, cached, and without, uncached.

    QEMU has no caches: what a processor gains is not seen here.
    """
    with scratch() as directory:
        image = directory / "image"
        image.write_bytes(bytes(IMAGE_BYTES))
        seconds = paired(
            lambda: _read(store, directory, image, patched=True),
            lambda: _read(store, directory, image, patched=False),
            rounds,
        )
    compared(f"{READS * IMAGE_BYTES >> 20} MiB of phram, 5.10, plain: unpatched", *seconds)


def _read(store: Store, directory: Path, image: Path, *, patched: bool) -> float:
    cell = old_cell(store, directory, patched=patched)
    made_of = with_image(cell, image, files={"read": cell.compile_program(READER)})
    machine = dataclasses.replace(made_of.boot.machine, fast_boot=False)
    boot = dataclasses.replace(made_of.boot, machine=machine)
    with scratch() as logs, boot_guest(dataclasses.replace(made_of, boot=boot), logs) as vm:
        vm.modprobe("-a", *MODULES)
        return timed(lambda: vm.succeed("/read", timeout_s=60))
